//! Randomness that is the same on every machine and in every version: `SplitMix64`.

/// One stream of numbers. Streams of one seed are independent of each other, so that one more draw in one does not
/// change what the others say.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut start = Self(seed ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03));
        let state = start.draw();
        Self(state)
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Both ends included. `low` if `high` is below it.
    pub(crate) fn between(&mut self, low: i64, high: i64) -> i64 {
        let span = u64::try_from(high.saturating_sub(low)).unwrap_or(0).saturating_add(1);
        low.saturating_add(i64::try_from(self.draw() % span).unwrap_or(0))
    }

    /// Whether something happens that happens this often in a thousand.
    pub(crate) fn chance(&mut self, permille: i64) -> bool {
        self.between(0, 999) < permille
    }

    /// One of these; `first` is one of them.
    pub(crate) fn pick<T: Copy>(&mut self, first: T, others: &[T]) -> T {
        let chosen = self.between(0, i64::try_from(others.len()).unwrap_or(0));
        usize::try_from(chosen - 1).ok().and_then(|n| others.get(n).copied()).unwrap_or(first)
    }
}

//! Makes a failure small: leaves out what it does not need, as long as the same promise is broken.

use crate::plan::{Happening, Plan};
use crate::world::Ran;
use crate::{Mask, Options, Outcome, Violation, run};

/// The smallest failing run that was found.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// How it fails.
    pub violation: Violation,
    /// The planned happenings that it needs, in words.
    pub happenings: Vec<String>,
    /// How many faults that were drawn on the way it needs.
    pub faults: u32,
    /// How many runs it took to find it.
    pub runs: u32,
    /// What happens in it, line by line.
    pub trace: Vec<String>,
}

/// No failure is worth more runs than this.
const MOST_RUNS: u32 = 3_000;

struct Search<'a> {
    seed: u64,
    plan: &'a Plan,
    options: Options,
    rule: &'static str,
    runs: u32,
}

impl Search<'_> {
    fn fails(&mut self, mask: &Mask) -> Option<Ran> {
        self.runs += 1;
        let ran = run(self.seed, self.plan, mask, self.options);
        ran.violation.as_ref().is_some_and(|violation| violation.rule == self.rule).then_some(ran)
    }

    /// Leaves out as many of `candidates` as it can, in ever smaller parts.
    fn without<T: Copy>(&mut self, mut mask: Mask, mut candidates: Vec<T>, leave: fn(&mut Mask, T)) -> Mask {
        let mut size = candidates.len();
        while size > 0 && self.runs < MOST_RUNS {
            let mut kept = Vec::new();
            for part in candidates.chunks(size) {
                let mut tried = mask.clone();
                for candidate in part {
                    leave(&mut tried, *candidate);
                }
                if self.fails(&tried).is_some() {
                    mask = tried;
                } else {
                    kept.extend_from_slice(part);
                }
            }
            candidates = kept;
            size /= 2;
        }
        mask
    }

    fn with_an_earlier_end(&mut self, mut mask: Mask) -> Mask {
        let mut end = self.plan.rough_for;
        for _ in 0..6 {
            end = end * 2 / 3;
            let tried = Mask { end: Some(end), ..mask.clone() };
            if self.fails(&tried).is_none() {
                break;
            }
            mask = tried;
        }
        mask
    }
}

/// Shrinks the failure of a seed. `None` if it does not fail.
pub fn shrink(seed: u64, options: &Options) -> Option<Shrunk> {
    let plan = Plan::draw(seed);
    let quiet = Options { trace: false, ..*options };
    let Outcome { violation, .. } = crate::simulate(seed, &quiet);
    let mut search = Search { seed, plan: &plan, options: quiet, rule: violation?.rule, runs: 0 };
    let mut mask = search.with_an_earlier_end(Mask::default());
    // What is left out changes what is drawn later; so both are tried until neither helps.
    for _ in 0..3 {
        let before = mask.clone();
        let planned: Vec<usize> = (0..plan.happenings.len()).filter(|n| !mask.happenings.contains(n)).collect();
        mask = search.without(mask, planned, |mask, n| {
            mask.happenings.insert(n);
        });
        let fired = search.fails(&mask).map_or(0, |ran| ran.fired);
        let drawn: Vec<u32> = (1..=fired).filter(|n| !mask.faults.contains(n)).collect();
        mask = search.without(mask, drawn, |mask, n| {
            mask.faults.insert(n);
        });
        mask = search.with_an_earlier_end(mask);
        if mask == before {
            break;
        }
    }
    let ran = run(seed, &plan, &mask, Options { trace: true, ..*options });
    let needed = plan.happenings.iter().enumerate().filter(|(n, _)| !mask.happenings.contains(n));
    let left_out = u32::try_from(mask.faults.iter().filter(|n| **n <= ran.fired).count()).unwrap_or(0);
    Some(Shrunk {
        violation: ran.violation?,
        happenings: needed.map(|(_, happening)| in_words(happening)).collect(),
        faults: ran.fired.saturating_sub(left_out),
        runs: search.runs,
        trace: ran.trace,
    })
}

fn in_words(happening: &Happening) -> String {
    match happening {
        Happening::At(at, what) => format!("at {} ms: {what:?}", at / crate::plan::MS),
        Happening::AtBoundary(n, false) => format!("a crash at boundary {n}"),
        Happening::AtBoundary(n, true) => format!("a power loss at boundary {n}"),
    }
}

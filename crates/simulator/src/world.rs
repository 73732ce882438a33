//! The world: time, the heap of events, and the one loop that takes them.
//!
//! Everything that takes time is an event: a commit on its way and its confirmation, a request, its answer, a turn of a
//! driver, a tick of the market. Their delays are drawn from the seed; of two at the same time, the one that was
//! planned first comes first. So the same seed gives the same run.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::Duration;

use trading::command::Wish;
use trading::engine::Input;
use trading::exchange::StreamEvent;
use trading::ids::{ClientOrderId, TradeId};
use trading::time::Timestamp;

use crate::clients::{Client, Step as ClientStep};
use crate::counts::{Fault, Faults, State, States};
use crate::database::{Db, DbDone};
use crate::network::{Request, Travel};
use crate::plan::{Happening, MS, Plan, SECOND, What, Who};
use crate::process::{Process, Stage};
use crate::rng::Rng;
use crate::store::{Flaws, SimStore};
use crate::venue::SimVenue;
use crate::{Break, Mask, Options, Violation};

pub(crate) const RECV_WINDOW: Duration = Duration::from_secs(5);
pub(crate) const ABSENCE_MARGIN: Duration = Duration::from_secs(10);
pub(crate) const LEASE_TTL: i64 = 15 * SECOND;
/// Where the wall clock begins.
const EPOCH: i64 = 1_700_000_000 * SECOND;
/// How long after the faults everything must have come to rest.
const HEALING: i64 = 110 * SECOND;
/// No seed needs more events; one that does is stuck in a circle.
const MOST_EVENTS: u64 = 300_000;

#[derive(Debug)]
pub(crate) enum Event {
    Planned(usize),
    Tick,
    Boot(Who),
    Start(Who, u32),
    Db(Box<Db>),
    DbDone(Who, u32, Box<DbDone>),
    DbReopen,
    Turn(Who, u32),
    Wake(Who, u32),
    Depart(Who, u32, Box<Request>),
    Arrive(Box<Travel>),
    Answer(Who, u32, Box<Input>),
    Subscribed(Who, u32),
    Stream(Who, u32, Box<StreamEvent>),
    Mend(Who, u32),
    Show(Vec<TradeId>),
    Stage(Who, u32, Stage),
    Client(usize, u32, ClientStep),
    Heal,
    Look,
}

impl Event {
    /// Whether something is on its way as long as this is planned.
    fn is_busy(&self) -> bool {
        match self {
            Event::Db(_)
            | Event::DbDone(..)
            | Event::Turn(..)
            | Event::Depart(..)
            | Event::Arrive(_)
            | Event::Answer(..)
            | Event::Stream(..)
            | Event::Show(_) => true,
            Event::Planned(_)
            | Event::Tick
            | Event::Boot(_)
            | Event::Start(..)
            | Event::DbReopen
            | Event::Wake(..)
            | Event::Subscribed(..)
            | Event::Mend(..)
            | Event::Stage(..)
            | Event::Client(..)
            | Event::Heal
            | Event::Look => false,
        }
    }

    /// Whose code runs in it: a frozen process does it later, one that is gone never.
    fn runs_in(&self) -> Option<(Who, u32)> {
        match self {
            Event::Start(who, token)
            | Event::DbDone(who, token, _)
            | Event::Turn(who, token)
            | Event::Wake(who, token)
            | Event::Depart(who, token, _)
            | Event::Answer(who, token, _)
            | Event::Subscribed(who, token)
            | Event::Stream(who, token, _) => Some((*who, *token)),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Planned {
    at: i64,
    order: u64,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Planned {}
impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// How far the run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Faults happen.
    Rough,
    /// No faults; everything must come to rest.
    Healing,
    /// The market stands still; what is on its way arrives.
    Settling,
    /// The last process stops.
    Stopping,
    Over,
}

/// Randomness by what it is for.
#[derive(Debug)]
pub(crate) struct Dice {
    pub(crate) delay: Rng,
    pub(crate) fault: Rng,
    pub(crate) market: Rng,
    pub(crate) client: Rng,
}

#[derive(Debug)]
pub(crate) struct World<'p> {
    pub(crate) plan: &'p Plan,
    mask: &'p Mask,
    pub(crate) broken: Option<Break>,
    pub(crate) now: i64,
    heap: BinaryHeap<Reverse<Planned>>,
    planned: u64,
    taken: u64,
    pub(crate) busy: usize,
    pub(crate) dice: Dice,
    pub(crate) store: SimStore,
    pub(crate) db_life: u32,
    /// Whether the last commit that was not confirmed was written.
    pub(crate) unconfirmed: Option<bool>,
    pub(crate) venue: SimVenue,
    pub(crate) a: Process,
    pub(crate) b: Process,
    pub(crate) next_token: u32,
    pub(crate) clients: Vec<Client>,
    pub(crate) answered: Vec<usize>,
    pub(crate) phase: Phase,
    pub(crate) healed_at: i64,
    pub(crate) boundaries: u32,
    crashes_at: Vec<(u32, bool)>,
    pub(crate) said_none: BTreeSet<ClientOrderId>,
    pub(crate) said_duplicate: BTreeSet<ClientOrderId>,
    pub(crate) was_withheld: BTreeSet<TradeId>,
    pub(crate) released_by: Option<Who>,
    /// When the newest epoch began.
    pub(crate) epoch_began: i64,
    /// Some clock was wrong by more than the margins allow for, or by anything at all.
    pub(crate) clock_lied: bool,
    pub(crate) clock_differed: bool,
    fired: u32,
    pub(crate) faults: Faults,
    pub(crate) states: States,
    trace: Option<Vec<String>>,
    pub(crate) violation: Option<Violation>,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) violation: Option<Violation>,
    pub(crate) faults: Faults,
    pub(crate) states: States,
    pub(crate) events: u64,
    pub(crate) fired: u32,
    pub(crate) trace: Vec<String>,
}

impl<'p> World<'p> {
    pub(crate) fn new(seed: u64, plan: &'p Plan, mask: &'p Mask, options: Options) -> Self {
        let flaws = Flaws {
            lies_about_sync: options.broken == Some(Break::LyingSync),
            ignores_epochs: options.broken == Some(Break::NoEpochCheck),
        };
        let dice = Dice {
            delay: Rng::new(seed, 2),
            fault: Rng::new(seed, 3),
            market: Rng::new(seed, 4),
            client: Rng::new(seed, 5),
        };
        let mut world = Self {
            plan,
            mask,
            broken: options.broken,
            now: 0,
            heap: BinaryHeap::with_capacity(128),
            planned: 0,
            taken: 0,
            busy: 0,
            dice,
            store: SimStore::new(flaws),
            db_life: 0,
            unconfirmed: None,
            venue: SimVenue::new(plan, RECV_WINDOW, Timestamp::from_micros(EPOCH)),
            a: Process::new(Who::A),
            b: Process::new(Who::B),
            next_token: 0,
            clients: Vec::new(),
            answered: Vec::new(),
            phase: Phase::Rough,
            healed_at: 0,
            boundaries: 0,
            crashes_at: Vec::new(),
            said_none: BTreeSet::new(),
            said_duplicate: BTreeSet::new(),
            was_withheld: BTreeSet::new(),
            released_by: None,
            epoch_began: 0,
            clock_lied: false,
            clock_differed: false,
            fired: 0,
            faults: Faults::default(),
            states: States::default(),
            trace: options.trace.then(Vec::new),
            violation: None,
        };
        world.set_up();
        world
    }

    fn set_up(&mut self) {
        let made = self.store.ensure_account("paper", crate::venue::LABEL, Timestamp::from_micros(EPOCH));
        debug_assert!(made.is_ok());
        for (n, happening) in self.plan.happenings.iter().enumerate() {
            if self.mask.happenings.contains(&n) {
                continue;
            }
            match happening {
                Happening::At(at, _) => self.push(*at, Event::Planned(n)),
                Happening::AtBoundary(boundary, power) => self.crashes_at.push((*boundary, *power)),
            }
        }
        self.push(0, Event::Boot(Who::A));
        if !self.plan.single {
            self.push(self.plan.tick_every / 3, Event::Boot(Who::B));
        }
        self.push(20 * MS, Event::Tick);
        self.push(self.mask.end.unwrap_or(self.plan.rough_for), Event::Heal);
    }

    /// Runs until everything is over or a promise is broken.
    pub(crate) fn run(mut self) -> Ran {
        while self.violation.is_none() && self.phase != Phase::Over {
            let Some(Reverse(Planned { at, event, .. })) = self.heap.pop() else {
                self.violate("liveness", "nothing happens any more".into());
                break;
            };
            self.busy -= usize::from(event.is_busy());
            self.now = self.now.max(at);
            self.taken += 1;
            if self.taken > MOST_EVENTS {
                self.violate("liveness", format!("no rest after {MOST_EVENTS} events"));
                break;
            }
            if self.is_for_now(&event) {
                self.take(event);
            }
        }
        Ran {
            violation: self.violation,
            faults: self.faults,
            states: self.states,
            events: self.taken,
            fired: self.fired,
            trace: self.trace.unwrap_or_default(),
        }
    }

    /// Puts off what a frozen process would do; drops what one that is gone would have done.
    fn is_for_now(&mut self, event: &Event) -> bool {
        let Some((who, token)) = event.runs_in() else { return true };
        let process = self.process(who);
        process.token == token && process.paused_until <= self.now
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Planned(n) => {
                if let Some(Happening::At(_, what)) = self.plan.happenings.get(n) {
                    self.happen(what);
                }
            }
            Event::Tick => self.tick(),
            Event::Boot(who) => self.boot(who),
            Event::Start(who, _) => self.start(who),
            Event::Db(db) => self.db(*db),
            Event::DbDone(who, _, done) => self.db_done(who, *done),
            Event::DbReopen => self.db_reopen(),
            Event::Turn(who, _) => self.turn(who),
            Event::Wake(who, _) => self.wake(who),
            Event::Depart(who, _, request) => self.depart(who, *request),
            Event::Arrive(travel) => self.arrive(*travel),
            Event::Answer(who, _, input) => self.answer(who, *input),
            Event::Subscribed(who, _) => self.subscribed(who),
            Event::Stream(who, _, event) => self.stream(who, *event),
            Event::Mend(who, token) => self.mend(who, token),
            Event::Show(trades) => self.show(&trades),
            Event::Stage(who, life, stage) => self.advance(who, life, stage),
            Event::Client(client, attempt, step) => self.client(client, attempt, step),
            Event::Heal => self.heal(),
            Event::Look => self.look(),
        }
    }

    pub(crate) fn push(&mut self, at: i64, event: Event) {
        // What a frozen process does waits for it, in its order.
        let at = match event.runs_in() {
            Some((who, _)) => at.max(self.process(who).paused_until),
            None => at,
        };
        self.busy += usize::from(event.is_busy());
        self.planned += 1;
        self.heap.push(Reverse(Planned { at, order: self.planned, event }));
    }

    /// Puts off what waits for a process that was just frozen.
    pub(crate) fn freeze(&mut self, who: Who, until: i64) {
        self.process_mut(who).paused_until = until;
        let mut all: Vec<Planned> =
            std::mem::take(&mut self.heap).into_iter().map(|Reverse(planned)| planned).collect();
        all.sort_unstable();
        for planned in &mut all {
            if planned.event.runs_in().is_some_and(|(other, _)| other == who) && planned.at < until {
                // In the order in which they would have been.
                self.planned += 1;
                (planned.at, planned.order) = (until, self.planned);
            }
        }
        self.heap = all.into_iter().map(Reverse).collect();
    }

    pub(crate) fn after(&mut self, delay: i64, event: Event) {
        self.push(self.now + delay, event);
    }

    pub(crate) fn process(&self, who: Who) -> &Process {
        match who {
            Who::A => &self.a,
            Who::B => &self.b,
        }
    }

    pub(crate) fn process_mut(&mut self, who: Who) -> &mut Process {
        match who {
            Who::A => &mut self.a,
            Who::B => &mut self.b,
        }
    }

    /// The time of the store and the venue.
    pub(crate) fn time(&self) -> Timestamp {
        Timestamp::from_micros(EPOCH + self.now)
    }

    /// The time as this process believes it.
    pub(crate) fn wall(&self, who: Who) -> Timestamp {
        Timestamp::from_micros(EPOCH + self.now + self.process(who).skew)
    }

    /// From a process' time to the world's.
    pub(crate) fn world_time(&self, who: Who, at: Timestamp) -> i64 {
        at.micros() - EPOCH - self.process(who).skew
    }

    /// Whether this fault happens here and now.
    pub(crate) fn fault(&mut self, fault: Fault) -> bool {
        let rate = self.plan.rate(fault);
        if rate == 0 || self.phase != Phase::Rough || !self.dice.fault.chance(rate) {
            return false;
        }
        self.fired += 1;
        let fires = !self.mask.faults.contains(&self.fired);
        if fires {
            self.faults.add(fault);
            let number = self.fired;
            self.note(|| format!("fault #{number}: {}", fault.as_str()));
        }
        fires
    }

    pub(crate) fn reach(&mut self, state: State) {
        self.states.add(state);
    }

    /// A delay of the network, one way.
    pub(crate) fn hop(&mut self) -> i64 {
        self.dice.delay.between(300, 25_000)
    }

    /// Passes an effect boundary. Whether the process fell there.
    pub(crate) fn falls_at_boundary(&mut self, who: Who, state: State) -> bool {
        if self.phase != Phase::Rough {
            return false;
        }
        self.boundaries += 1;
        let here = self.boundaries;
        let Some((_, power)) = self.crashes_at.iter().find(|(boundary, _)| *boundary == here).copied() else {
            return false;
        };
        self.reach(state);
        self.note(|| format!("boundary {here}: {}", state.as_str()));
        if power {
            self.power_loss();
        } else {
            self.crash(who);
        }
        true
    }

    /// Writes a line of the trace, if there is one.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if self.trace.is_none() {
            return;
        }
        let line = line();
        let (seconds, micros) = (self.now / SECOND, self.now % SECOND);
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{seconds:>4}.{micros:06} {line}"));
        }
    }

    pub(crate) fn violate(&mut self, rule: &'static str, what: String) {
        self.note(|| format!("VIOLATION of {rule}: {what}"));
        if self.violation.is_none() {
            self.violation = Some(Violation { rule, what });
        }
    }

    fn happen(&mut self, what: &What) {
        if self.phase != Phase::Rough {
            return;
        }
        match what {
            What::Wish { wish, lives } => self.new_client(Wish::clone(wish), *lives),
            What::CancelSome => self.cancel_some(),
            What::Crash(who) if self.process(*who).up => self.crash(*who),
            What::PowerLoss => self.power_loss(),
            What::Pause(who, time) if self.process(*who).up => {
                self.faults.add(Fault::Pause);
                self.note(|| format!("{who:?} is frozen for {} ms", time / MS));
                let until = self.now + time;
                self.freeze(*who, until);
            }
            What::Shutdown { who, hold, drain } => self.shut_down(*who, *hold, *drain),
            What::StreamCut { who, unnoticed, down } => self.cut(*who, *unnoticed, *down),
            What::StoreDown(time) => {
                self.faults.add(Fault::StoreDown);
                self.note(|| format!("store down for {} ms", time / MS));
                let until = self.time().after(Duration::from_micros(u64::try_from(*time).unwrap_or(0)));
                self.store.fail_until(until);
            }
            What::PriceJump(thousandths) => {
                self.faults.add(Fault::PriceJump);
                self.market(thousandths * 100);
            }
            What::Crash(_) | What::Pause(..) => {}
        }
    }

    fn tick(&mut self) {
        if self.phase >= Phase::Settling {
            return;
        }
        let by = self.dice.market.between(-250, 250);
        self.market(by);
        let every = match self.phase {
            Phase::Rough => self.plan.tick_every,
            _ if self.now < self.healed_at + HEALING => 2 * SECOND,
            _ => 60 * SECOND,
        };
        let every = self.dice.market.between(every / 2, every * 3 / 2);
        self.after(every, Event::Tick);
    }

    /// Every symbol's price moves by so many thousandths of a percent.
    fn market(&mut self, by: i64) {
        let now = self.time();
        for n in 0..self.plan.symbols.len() {
            let Some(info) = self.plan.symbols.get(n) else { continue };
            let sizes = (self.dice.market.between(50, 2_000), self.dice.market.between(50, 2_000));
            let market = self.venue.move_price(info, by, sizes, now);
            self.publish();
            for who in [Who::A, Who::B] {
                let Process { session: Some(_), token, .. } = *self.process(who) else { continue };
                let delay = self.hop();
                self.after(delay, Event::Answer(who, token, Box::new(Input::Market(market.clone()))));
            }
        }
    }

    fn heal(&mut self) {
        self.phase = Phase::Healing;
        self.note(|| "the faults are over".into());
        self.store.fail_until(self.time());
        if self.store.is_broken() {
            self.db_reopen();
        }
        let survivor = if self.plan.single { Who::A } else { self.dice.fault.pick(Who::A, &[Who::B]) };
        for who in [Who::A, Who::B] {
            let lives = who == survivor;
            self.process_mut(who).retired = !lives;
            let Process { up, stage, skew, .. } = *self.process(who);
            if up && (!lives || stage != Stage::Run || skew != 0) {
                self.end_process(who);
            }
            if lives && !self.process(who).up {
                self.after(SECOND / 2, Event::Boot(who));
            }
        }
        self.healed_at = self.now.max(self.process(survivor).paused_until);
        self.after(8 * SECOND, Event::Look);
    }

    /// Until when everything must have come to rest.
    pub(crate) fn must_rest_by(&self) -> i64 {
        // After an hour's error of a clock a request may be acceptable for as long.
        self.healed_at + HEALING + if self.clock_lied { 3_700 * SECOND } else { 0 }
    }
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("owner", &self.owner).field("up", &self.up).finish_non_exhaustive()
    }
}

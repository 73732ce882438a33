//! Clients: they ask, and after an error or silence they ask again with the same key, at whichever process they reach.
//! What they were told once must hold for ever.

use trading::command::{Command, Outcome, Record, Wish};

use crate::counts::{Fault, State};
use crate::plan::{MS, SECOND, Who};
use crate::process::Stage;
use crate::world::{Event, World};

/// One wish and how far it has come.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) source: String,
    pub(crate) dedup_key: String,
    pub(crate) wish: Wish,
    /// A signal expires so long after it arrives.
    lives: i64,
    patience: i64,
    /// Names the attempt under way. What belongs to an earlier one is ignored.
    attempt: u32,
    /// What a server answered first.
    pub(crate) answer: Option<Record>,
    /// The client has heard it.
    pub(crate) content: bool,
}

/// A step of an attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// Chooses a server and sends the request.
    Try,
    /// The server looks whether it was decided before.
    Find(Who, u32),
    /// The server hands it to the engine.
    Submit(Who, u32),
    /// The answer arrives.
    Hear,
    /// Nobody answered.
    Despair,
}

impl World<'_> {
    pub(crate) fn new_client(&mut self, wish: Wish, lives: i64) {
        let n = self.clients.len();
        let patience = self.dice.client.pick(12, &[2, 4]) * SECOND;
        self.clients.push(Client {
            source: "client".into(),
            dedup_key: format!("{n}"),
            wish,
            lives,
            patience,
            attempt: 0,
            answer: None,
            content: false,
        });
        self.after(0, Event::Client(n, 0, Step::Try));
    }

    /// Somebody wants one of the orders cancelled that rest now.
    pub(crate) fn cancel_some(&mut self) {
        let live: Vec<_> = self.store.live_orders(Self::account()).map(|order| order.client_id.clone()).collect();
        let last = i64::try_from(live.len()).unwrap_or(0) - 1;
        let n = usize::try_from(self.dice.client.between(0, last)).unwrap_or(0);
        if let Some(order) = live.into_iter().nth(n) {
            self.new_client(Wish::CancelOrder { order }, 0);
        }
    }

    pub(crate) fn client(&mut self, n: usize, attempt: u32, step: Step) {
        // A server goes on with what it was asked, whether or not the client still waits.
        let served = matches!(step, Step::Find(..) | Step::Submit(..));
        let Some(client) =
            self.clients.get(n).filter(|client| served || (client.attempt == attempt && !client.content))
        else {
            return;
        };
        match step {
            Step::Try => {
                let patience = client.patience;
                let some = if self.plan.single { Who::A } else { self.dice.client.pick(Who::A, &[Who::B]) };
                let other = if some == Who::A { Who::B } else { Who::A };
                let who = if self.process(some).up { some } else { other };
                if !self.process(who).up {
                    return self.retry(n, attempt);
                }
                let life = self.process(who).life;
                let delay = self.hop();
                self.after(delay, Event::Client(n, attempt, Step::Find(who, life)));
                self.after(patience, Event::Client(n, attempt, Step::Despair));
            }
            Step::Find(who, life) => self.find(n, attempt, who, life),
            Step::Submit(who, life) => self.hand_over(n, attempt, who, life),
            Step::Hear => {
                if let Some(client) = self.clients.get_mut(n) {
                    client.content = true;
                }
            }
            Step::Despair => self.retry(n, attempt),
        }
    }

    /// Puts a step off while its process is frozen; says whether it is there to take it.
    fn serves(&mut self, n: usize, attempt: u32, who: Who, life: u32, step: Step) -> bool {
        let process = self.process(who);
        if process.life != life || !process.up {
            self.retry(n, attempt);
            return false;
        }
        if process.paused_until > self.now {
            let until = process.paused_until;
            self.push(until, Event::Client(n, attempt, step));
            return false;
        }
        true
    }

    fn find(&mut self, n: usize, attempt: u32, who: Who, life: u32) {
        if !self.serves(n, attempt, who, life, Step::Find(who, life)) {
            return;
        }
        if self.process(who).stage >= Stage::NoEntries {
            return self.retry(n, attempt);
        }
        let now = self.time();
        let Some(client) = self.clients.get(n) else { return };
        match self.store.find_command(&client.source, &client.dedup_key, now) {
            Err(_) => self.retry(n, attempt),
            Ok(Some(record)) => self.reply(n, &record),
            Ok(None) => {
                // Now and then a server is slow, and much happens between looking and handing over.
                let most = if self.dice.client.chance(200) { 6_000_000 } else { 3_000 };
                let delay = self.dice.client.between(100, most);
                self.after(delay, Event::Client(n, attempt, Step::Submit(who, life)));
            }
        }
    }

    fn hand_over(&mut self, n: usize, attempt: u32, who: Who, life: u32) {
        if !self.serves(n, attempt, who, life, Step::Submit(who, life)) {
            return;
        }
        if self.process(who).stage >= Stage::Stop || !self.process(who).was_ready || !self.process(who).is_ready() {
            return self.retry(n, attempt);
        }
        let wall = self.wall(who);
        let Some(client) = self.clients.get(n) else { return };
        let mut wish = client.wish.clone();
        if let Wish::Signal(signal) = &mut wish {
            let lives = std::time::Duration::from_micros(u64::try_from(client.lives).unwrap_or(0));
            signal.expires_at = Some(wall.after(lives));
        }
        let command = Command { source: client.source.clone(), dedup_key: client.dedup_key.clone(), wish };
        self.submit(who, n, command);
    }

    /// A server answers with 2xx: from here on this must hold.
    pub(crate) fn reply(&mut self, n: usize, record: &Record) {
        let now = self.time();
        let Some(client) = self.clients.get(n) else { return };
        let (source, dedup_key) = (client.source.clone(), client.dedup_key.clone());
        self.note(|| format!("client {dedup_key} is answered: {:?}", record.outcome));
        if !self.store.knows_command(&source, &dedup_key) {
            self.violate("write-ahead", format!("client {dedup_key} is answered before that is written"));
        }
        let earlier = self.clients.get(n).and_then(|client| client.answer.clone());
        match earlier {
            Some(earlier) if earlier == *record => self.reach(State::AnsweredAgain),
            Some(earlier) => {
                let what = format!("client {dedup_key} was told {:?}, and now {:?}", earlier.outcome, record.outcome);
                self.violate("C5", what);
            }
            None => {
                self.answered.push(n);
                if let Some(client) = self.clients.get_mut(n) {
                    client.answer = Some(record.clone());
                }
                if matches!(record.outcome, Outcome::Done { .. }) && record.received_at > now {
                    self.clock_differed = true;
                }
            }
        }
        let Some(attempt) = self.clients.get(n).map(|client| client.attempt) else { return };
        if !self.fault(Fault::ApiAnswerLost) {
            let delay = self.hop();
            self.after(delay, Event::Client(n, attempt, Step::Hear));
        }
    }

    /// The server says that it does not know, or the connection breaks.
    pub(crate) fn client_failed(&mut self, n: usize) {
        let attempt = self.clients.get(n).map_or(0, |client| client.attempt);
        self.retry(n, attempt);
    }

    /// Asks again by and by, unless that attempt was given up already.
    fn retry(&mut self, n: usize, attempt: u32) {
        let delay = self.dice.client.between(100, 2_500) * MS;
        let current = |client: &&mut Client| !client.content && client.attempt == attempt;
        let Some(client) = self.clients.get_mut(n).filter(current) else { return };
        client.attempt += 1;
        let attempt = client.attempt;
        self.after(delay, Event::Client(n, attempt, Step::Try));
    }
}

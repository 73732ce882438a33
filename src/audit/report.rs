//! What the checker has to say.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};
use venue::ledger::AccountImage;

use super::ours::Ours;

/// How many findings of one check are kept; further ones are counted.
const KEPT: usize = 1_000;
/// How many findings are written out for people.
const SHOWN: usize = 100;
const CHECKS: usize = 10;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something happened that we do not know of, or the other way round.
    Lost,
    /// Something happened twice.
    Doubled,
    /// Neither, but not as it should be.
    Other,
}

impl Severity {
    fn of(check: u8) -> Self {
        match check {
            1..=5 | 8 => Severity::Lost,
            6 | 7 => Severity::Doubled,
            _ => Severity::Other,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Severity::Lost => "lost",
            Severity::Doubled => "doubled",
            Severity::Other => "other",
        }
    }
}

/// One contradiction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Finding {
    /// Which check found it: 1 to 10.
    pub check: u8,
    /// How bad it is.
    pub severity: Severity,
    /// The account's label; empty if it is about none.
    pub account: String,
    /// What it is, with the ids to look for. A finding counts only if every look finds these same words.
    pub what: String,
    /// How it stands now: what may change from one look to the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
    /// What to do about it.
    pub next: &'static str,
}

impl Finding {
    /// What must be found again.
    fn name(&self) -> (u8, &str, &str) {
        (self.check, &self.account, &self.what)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "C{} {}: ", self.check, self.severity.as_str())?;
        if !self.account.is_empty() {
            write!(f, "account {}: ", self.account)?;
        }
        f.write_str(&self.what)?;
        if let Some(now) = &self.now {
            write!(f, " ({now})")?;
        }
        write!(f, "; {}", self.next)
    }
}

/// What was found so far: the first of each check, and how many there are.
#[derive(Debug, Default)]
pub(super) struct Findings {
    account: String,
    kept: Vec<Finding>,
    counts: [usize; CHECKS + 1],
}

impl Findings {
    /// What follows is about this account.
    pub(super) fn account(&mut self, label: &str) {
        label.clone_into(&mut self.account);
    }

    pub(super) fn find(&mut self, check: u8, what: String, next: &'static str) {
        self.push(check, what, None, next);
    }

    pub(super) fn find_now(&mut self, check: u8, what: String, now: String, next: &'static str) {
        self.push(check, what, Some(now), next);
    }

    fn push(&mut self, check: u8, what: String, now: Option<String>, next: &'static str) {
        let Some(count) = self.counts.get_mut(usize::from(check)) else { return };
        *count += 1;
        if *count <= KEPT {
            let (severity, account) = (Severity::of(check), self.account.clone());
            self.kept.push(Finding { check, severity, account, what, now, next });
        }
    }
}

/// How much was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Accounts, in the database or at the venue.
    pub accounts: usize,
    /// Orders in the database.
    pub orders: usize,
    /// Fills in the database.
    pub fills: usize,
    /// Signals and commands in the database.
    pub signals: usize,
    /// Events in the database.
    pub events: usize,
    /// Orders at the venue, of whomever.
    pub venue_orders: usize,
    /// Fills at the venue.
    pub venue_fills: usize,
    /// Requests for orders that the venue received.
    pub venue_posts: usize,
}

impl Counts {
    pub(super) fn add(&mut self, venue: &AccountImage, ours: &Ours) {
        self.accounts += 1;
        self.orders += ours.orders.len();
        self.fills += ours.fills.len();
        self.signals += ours.signals();
        self.events += ours.events;
        self.venue_orders += venue.orders.len();
        self.venue_fills += venue.fills.len();
        self.venue_posts += venue.posts.len();
    }
}

/// What the checker has to say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct AuditReport {
    /// How many findings mean that something was lost.
    pub lost: usize,
    /// How many findings mean that something was doubled.
    pub doubled: usize,
    /// How many findings mean neither, but are not as it should be.
    pub other: usize,
    /// The findings, ordered by check: of each check at most the first thousand.
    pub findings: Vec<Finding>,
    /// How many findings there are beyond those.
    pub more: usize,
    /// How much was compared.
    pub counts: Counts,
    /// How often it was looked.
    pub looks: usize,
    /// How long it took, all looks together.
    #[serde(rename = "took_ms", serialize_with = "as_millis")]
    pub took: Duration,
}

fn as_millis<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
}

impl AuditReport {
    pub(super) fn new(findings: Findings, counts: Counts) -> Self {
        let of = |severity| {
            let numbered = (0_u8..).zip(findings.counts);
            numbered.filter(|(check, _)| Severity::of(*check) == severity).map(|(_, count)| count).sum()
        };
        let (lost, doubled, other): (usize, usize, usize) =
            (of(Severity::Lost), of(Severity::Doubled), of(Severity::Other));
        let mut kept = findings.kept;
        kept.sort();
        let more = (lost + doubled + other).saturating_sub(kept.len());
        Self { lost, doubled, other, findings: kept, more, counts, looks: 1, took: Duration::ZERO }
    }

    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// What was found in both looks, as the later one saw it. Findings that were not kept count if both looks have as many.
    pub(super) fn and(&self, later: Self) -> Self {
        let found: std::collections::BTreeSet<_> = self.findings.iter().map(Finding::name).collect();
        let looks = self.looks + 1;
        let findings: Vec<Finding> =
            later.findings.into_iter().filter(|finding| found.contains(&finding.name())).collect();
        let more = self.more.min(later.more);
        if more > 0 {
            // Too many to tell one by one.
            let (lost, doubled, other) =
                (self.lost.min(later.lost), self.doubled.min(later.doubled), self.other.min(later.other));
            return Self { lost, doubled, other, findings, more, looks, ..later };
        }
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        let (lost, doubled, other) = (count(Severity::Lost), count(Severity::Doubled), count(Severity::Other));
        Self { lost, doubled, other, findings, more, looks, ..later }
    }
}

impl fmt::Display for AuditReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in self.findings.iter().take(SHOWN) {
            writeln!(f, "{finding}")?;
        }
        let more = self.findings.len().saturating_sub(SHOWN) + self.more;
        if more > 0 {
            writeln!(f, "and {more} more")?;
        }
        let Counts { orders, fills, signals, events, venue_orders, venue_fills, venue_posts, .. } = self.counts;
        write!(f, "compared {orders} orders, {fills} fills, {signals} signals, {events} events with ")?;
        write!(f, "{venue_orders} orders, {venue_fills} fills, {venue_posts} requests at the venue, ")?;
        let looks = if self.looks == 1 { "one look".to_owned() } else { format!("{} looks", self.looks) };
        writeln!(f, "{looks} in {:.1?}", self.took)?;
        write!(f, "lost {}, doubled {}", self.lost, self.doubled)
    }
}

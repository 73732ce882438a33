//! Drives a feed in time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use trading::market::{Market, Symbol};
use trading::time::Timestamp;

use super::{Events, Feed, MarketError, at};
use crate::clock::Clock;
use crate::config::{BinanceConfig, MarketConfig};
use crate::gateway::paper::PaperVenue;

/// How many events a listener may be behind.
const EVENTS: usize = 4096;
/// Whoever is later than this (the process was frozen, the venue held the feed back) goes on from here instead of rushing
/// through what was missed.
const MAX_LAG: Duration = Duration::from_secs(1);

/// Where to listen to market data. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct MarketHub {
    events: broadcast::Sender<Arc<Market>>,
    quotes: Quotes,
    finished: watch::Receiver<bool>,
}

/// The newest quote of each symbol.
type Quotes = Arc<Mutex<BTreeMap<Symbol, Arc<Market>>>>;

impl MarketHub {
    /// The newest quote of each symbol, for whoever comes late.
    pub fn quotes(&self) -> Vec<Arc<Market>> {
        self.quotes.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// All events from now on.
    pub fn subscribe(&self) -> Events {
        self.events.subscribe()
    }

    /// Turns true at the end of a replay. A synthetic or live feed has no end.
    pub fn finished(&self) -> watch::Receiver<bool> {
        self.finished.clone()
    }
}

/// Drives the configured feed: hands each event, with the time now, to the venue first and then to the listeners.
///
/// An order that somebody sends because of an event arrives at the venue after that event.
#[derive(Debug)]
#[must_use = "nothing happens until it runs"]
pub struct MarketRunner {
    feed: Feed,
    speed: u32,
    now: Clock,
    events: broadcast::Sender<Arc<Market>>,
    quotes: Quotes,
    finished: watch::Sender<bool>,
}

impl MarketRunner {
    /// Opens the configured feed. `now` is the clock that the events are stamped with.
    ///
    /// `binance` says where that source is found.
    pub fn open(config: &MarketConfig, binance: &BinanceConfig, now: Clock) -> Result<(Self, MarketHub), MarketError> {
        let (feed, speed) = Feed::open(config, binance, now.now())?;
        let events = broadcast::Sender::new(EVENTS);
        let (finished, finished_receiver) = watch::channel(false);
        let quotes = Quotes::default();
        let hub = MarketHub { events: events.clone(), quotes: Arc::clone(&quotes), finished: finished_receiver };
        Ok((Self { feed, speed, now, events, quotes, finished }, hub))
    }

    /// Runs until `stop`, also after the end of a replay, when it is idle. `venue` is where the events are handed first.
    ///
    /// Cancel safety: may be dropped at any point; the event in hand is then lost to the listeners.
    pub async fn run(mut self, venue: Option<PaperVenue>, stop: CancellationToken) -> Result<(), MarketError> {
        let driven = async {
            self.drive(venue.as_ref()).await?;
            self.finished.send_replace(true);
            tracing::info!("the market replay has ended");
            std::future::pending().await
        };
        stop.run_until_cancelled(driven).await.unwrap_or(Ok(()))
    }

    async fn drive(&mut self, venue: Option<&PaperVenue>) -> Result<(), MarketError> {
        let mut pace = Pace { speed: self.speed, origin: None };
        while let Some(event) = self.feed.next_event().await? {
            if let Some(due) = pace.due(event.at(), Instant::now()) {
                sleep_until(due).await;
            }
            let event = Arc::new(at(event, self.now.now()));
            if let Some(venue) = venue {
                venue.on_market(Arc::clone(&event)).await;
            }
            if let Market::Quote(quote) = &*event {
                let mut quotes = self.quotes.lock().unwrap_or_else(PoisonError::into_inner);
                quotes.insert(quote.symbol.clone(), Arc::clone(&event));
            }
            // Nobody may be listening, which is fine.
            drop(self.events.send(event));
            tokio::task::coop::consume_budget().await;
        }
        Ok(())
    }
}

/// Turns the time of events into the time of this process.
#[derive(Debug)]
struct Pace {
    speed: u32,
    /// An event's time, and when it was due here.
    origin: Option<(Timestamp, Instant)>,
}

impl Pace {
    /// When an event is due, unless it is now.
    fn due(&mut self, event: Timestamp, now: Instant) -> Option<Instant> {
        if self.speed == 0 {
            return None;
        }
        let (first, started) = *self.origin.get_or_insert((event, now));
        let due = started + event.since(first) / self.speed;
        if now.saturating_duration_since(due) > MAX_LAG {
            self.origin = Some((event, now));
        }
        (due > now).then_some(due)
    }
}

#[cfg(test)]
mod tests;

//! Commands for accounts that another instance owns: stored in the inbox, decided there, answered here.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use trading::command::{Command, Record};
use trading::event::Event;
use trading::ids::AccountId;

use super::service::{CommandError, Commands, Decision, Pending, decided, same_request};
use crate::bus::{Bus, Message};
use crate::clock::Clock;
use crate::engines::SubmitError;
use crate::store::Stored;
use crate::stream::{Hub, Tail};

/// Pauses between looks into the store, should the bus have lost the news.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_LAST: Duration = Duration::from_millis(200);

/// The way to the owners of accounts that are not here.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Wakes the owner.
    pub bus: Arc<dyn Bus>,
    /// Hears of the decision.
    pub hub: Arc<Hub>,
    /// Now.
    pub clock: Clock,
    /// How many commands of an account may wait for its owner.
    pub room: u32,
    /// How long a decision is waited for.
    pub wait: Duration,
    /// Cancelled when nothing should be waited for any more.
    pub stop: CancellationToken,
}

impl Commands {
    /// Stores the command for the owner of its account, and waits for the outcome as long as `remote` says.
    pub(super) async fn decide_elsewhere(
        &self,
        remote: &Remote,
        account: AccountId,
        command: Command,
    ) -> Result<Decision, CommandError> {
        // From before it is stored, so that its decision is not missed.
        let tail = remote.hub.tail(account);
        let now = remote.clock.now();
        let pending = match self.store.store_command(account, &command, now, remote.room).await? {
            Stored::Full => return Err(SubmitError::Busy.into()),
            Stored::Decided(record) => return decided(*record, &command.wish, true),
            Stored::New => Pending { command: command.clone(), received_at: now, replayed: false },
            Stored::Waiting(waiting) => match waiting.wish {
                Ok(wish) if same_request(&wish, &command.wish) => {
                    let first = Command { wish, ..command.clone() };
                    Pending { command: first, received_at: waiting.received_at, replayed: true }
                }
                _ => return Err(CommandError::KeyReused),
            },
        };
        remote.bus.publish(Message::Wake { account });
        let outcome = timeout(remote.wait, self.outcome(&command, tail));
        match remote.stop.run_until_cancelled(outcome).await {
            Some(Ok(record)) => decided(record, &command.wish, pending.replayed),
            Some(Err(_)) | None => Ok(Decision::Pending(pending)),
        }
    }

    /// Waits until the command is decided: told by the hub, or found in the store.
    async fn outcome(&self, command: &Command, mut tail: Tail) -> Record {
        let is_it = |event: &Event| match event {
            Event::Command(record) => {
                let named = &record.command;
                (named.source == command.source && named.dedup_key == command.dedup_key).then(|| record.clone())
            }
            _ => None,
        };
        let mut pause = LOOK_FIRST;
        loop {
            if let Ok(Some(record)) = timeout(pause, tail.find(is_it)).await {
                return record;
            }
            pause = (pause * 3 / 2).min(LOOK_LAST);
            match self.store.find_command(&command.source, &command.dedup_key).await {
                Ok(Some(record)) => return record,
                Ok(None) => {}
                // It is stored; who waits can ask again.
                Err(error) => tracing::debug!(%error, "the store was not read; looking again"),
            }
        }
    }
}

//! What is done to a cluster. The order is fixed, so that a run that is long enough has done all of it; the moments come from
//! the seed.

/// One blow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    /// SIGKILL of one instance.
    Kill,
    /// SIGTERM of one instance, under load: it hands its accounts over.
    Term,
    /// SIGSTOP of one instance until its leases have ended and others have its accounts; on again.
    Freeze,
    /// SIGKILL of two instances at once.
    KillTwo,
    /// One instance does not reach the database any more: its connections are closed.
    CutDatabase,
    /// The same, but its connections just fall silent.
    SilenceDatabase,
    /// SIGKILL of PostgreSQL, which recovers.
    KillPostgres,
    /// SIGSTOP of PostgreSQL, and on again.
    FreezePostgres,
    /// Every session of PostgreSQL is ended.
    EndSessions,
    /// SIGKILL of Redis, which comes back empty.
    KillRedis,
    /// SIGSTOP of Redis, and on again.
    FreezeRedis,
    /// Redis forgets everything.
    FlushRedis,
    /// One instance does not reach Redis any more.
    SilenceRedis,
    /// SIGKILL of the venue, which comes back.
    KillVenue,
    /// Every instance is replaced, one after the other.
    Roll,
}

pub(crate) const BLOWS: [Blow; 15] = [
    Blow::Kill,
    Blow::KillPostgres,
    Blow::Term,
    Blow::SilenceDatabase,
    Blow::FlushRedis,
    Blow::Freeze,
    Blow::EndSessions,
    Blow::KillTwo,
    Blow::KillRedis,
    Blow::FreezePostgres,
    Blow::Roll,
    Blow::CutDatabase,
    Blow::FreezeRedis,
    Blow::KillVenue,
    Blow::SilenceRedis,
];

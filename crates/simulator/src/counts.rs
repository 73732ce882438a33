//! What a run must have met: faults that fired and rare states that were reached. A run of many seeds that never met
//! one of them shows nothing about it.

macro_rules! counted {
    ($(#[$doc:meta])* $name:ident, $counts:ident { $($variant:ident: $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $(#[doc = $text] $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// In words.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        /// How often each was met.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        #[allow(non_snake_case, reason = "a counter for each variant")]
        pub struct $counts { $($variant: u64,)+ }

        impl $counts {
            /// One more.
            pub fn add(&mut self, which: $name) {
                *match which { $($name::$variant => &mut self.$variant,)+ } += 1;
            }

            /// How often.
            pub fn get(&self, which: $name) -> u64 {
                match which { $($name::$variant => self.$variant,)+ }
            }

            /// Takes in what another run met.
            pub fn merge(&mut self, other: &Self) {
                $(self.$variant += other.$variant;)+
            }
        }
    };
}

counted! {
    /// Something that goes wrong, drawn from the seed.
    Fault, Faults {
        RequestLost: "request lost on its way to the venue",
        RequestLate: "request late at the venue",
        AnswerLost: "answer of the venue lost",
        AnswerLate: "answer of the venue late",
        Refusal: "definitive refusal by the venue",
        ErrorDone: "venue error although it did what was asked",
        ErrorUndone: "venue error and nothing done",
        SaysDuplicate: "venue calls an order that it took a duplicate",
        NotSent: "connection refused, nothing sent",
        HidesOrder: "query does not see an order that is new",
        WithholdFills: "fills shown later than the state that they make",
        StreamLate: "stream event late",
        StreamCut: "stream cut, events lost",
        CommitUnconfirmed: "commit written, but reported as unknown",
        CommitLost: "commit not written and reported as unknown",
        CommitLate: "commit written after its caller gave up",
        DiskFull: "disk full",
        SyncFails: "sync of the disk fails",
        StoreDown: "store unavailable for a time",
        RenewalLost: "renewal of the lease lost",
        ApiAnswerLost: "answer to a client lost",
        Crash: "process killed",
        PowerLoss: "power lost",
        Pause: "process frozen",
        Skew: "clock wrong by seconds",
        ClockJump: "clock wrong by an hour",
        Shutdown: "graceful shutdown asked for",
        SecondSignal: "drain cut short",
        PriceJump: "price jumps",
    }
}

counted! {
    /// A rare state that must be reached.
    State, States {
        Acknowledged: "order acknowledged",
        FillBeforeAck: "fill arrived before the answer to its order",
        FoundByQuery: "unknown order found by a query",
        ProvenAbsent: "order proven absent",
        NextGeneration: "next generation sent",
        LateAcceptance: "late acceptance after the time-out",
        AcceptedAfterNone: "order accepted after a query had said none",
        OutsideWindow: "request refused as too old",
        RefusedByVenue: "order refused by the venue",
        DuplicateAdopted: "duplicate refusal, order adopted",
        CancelRacedFill: "cancel raced a fill",
        CancelLost: "outcome of a cancel unknown",
        CancelAgain: "cancel sent again after a query",
        Canceled: "order cancelled",
        WrittenUnconfirmed: "unconfirmed commit found written after the restart",
        LostUnconfirmed: "unconfirmed commit found missing after the restart",
        UnsyncedLost: "unsynced commit lost with the power",
        FencedCommit: "commit fenced",
        RenewalRefused: "renewal of a lost lease refused",
        TakeoverFrozen: "takeover while the owner was frozen",
        TakeoverDead: "takeover of a dead owner's account",
        TwoEngines: "two processes with an engine for one account",
        HandOver: "lease released and taken by the other process",
        LeaseTooShort: "order held back because the lease was about to end",
        CrashBeforeCommit: "crash before a commit",
        CrashInCommit: "crash while a commit was under way",
        CrashAfterCommit: "crash after a commit, before its effects",
        CrashBetweenEffects: "crash between two effects",
        CrashOnWire: "crash with an order on the wire",
        CrashWithAnswer: "crash with an answer in memory",
        CrashInRecovery: "crash in recovery",
        CrashInSecondRecovery: "crash in recovery from a crash in recovery",
        SendingAtStart: "recovery found an order SENDING",
        StreamHealed: "stream gap healed",
        FetchedFill: "fill learned from a page",
        SeveralPages: "fills fetched in several pages",
        WithheldBooked: "withheld fill booked",
        PartialFill: "order filled in part",
        EndedByTerms: "order ended by its own terms",
        StopTriggered: "stop order triggered and filled",
        IntentWaited: "intent had to wait",
        ExpiredSkipped: "expired intent or signal skipped",
        Denied: "order denied by risk",
        AnsweredAgain: "same key answered again with the same outcome",
        KeyRace: "same key decided twice, the second refused by the store",
        Flattened: "position sold at a stop",
        Halted: "kill switch with a resting order",
        GaveUp: "shutdown left an order UNKNOWN",
        CleanStop: "shutdown left nothing unresolved",
        GridSold: "grid sold what it bought",
        DcaStep: "DCA step after a restart",
    }
}

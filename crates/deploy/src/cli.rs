//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::error::Exit;
use crate::notice::Level;

/// Installs, upgrades, rolls back and watches the trading server.
///
/// Two slots under systemd share the listener: an upgrade loses no request, and a release that is no good is undone by itself.
#[derive(Debug, Parser)]
#[command(name = "hotgo-deploy", version, after_help = Exit::table(), max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Everything is below this directory
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Print the result as JSON; steps still go to standard error
    #[arg(long, global = true)]
    pub json: bool,
    /// The command that drives systemd
    #[arg(
        long,
        global = true,
        value_name = "COMMAND",
        env = "HOTGO_DEPLOY_SYSTEMCTL",
        default_value = "systemctl",
        hide = true
    )]
    pub systemctl: String,
    /// The command that reads the journal
    #[arg(
        long,
        global = true,
        value_name = "COMMAND",
        env = "HOTGO_DEPLOY_JOURNALCTL",
        default_value = "journalctl",
        hide = true
    )]
    pub journalctl: String,
}

/// Whether something is changed, and when that is allowed.
#[derive(Debug, Clone, Default, Args)]
pub struct Change {
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Do it though it is not the time for it; the reason is recorded
    #[arg(long, value_name = "REASON")]
    pub outside_window: Option<String>,
}

/// The commands.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Make an artifact and its signature (where the source is, never on a trading host)
    Build {
        /// The server, instead of building it with cargo
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
        /// The source
        #[arg(long, value_name = "DIR", default_value = ".")]
        source: PathBuf,
        /// Where the artifact goes
        #[arg(long, value_name = "DIR", default_value = "dist")]
        out: PathBuf,
        /// The secret key that `keygen` made
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Make a key pair: FILE to sign with, FILE.pub for the hosts
    Keygen {
        /// The secret key
        file: PathBuf,
    },
    /// Make user, directories, units and configuration; doing it twice is doing it once
    Install {
        /// A public key whose artifacts are accepted
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Check an artifact and unpack it; nothing else changes
    Release {
        /// The artifact; its signature is beside it
        artifact: PathBuf,
        /// Only check it
        #[arg(long)]
        dry_run: bool,
    },
    /// Have a release serve, without a lost request; undone by itself if it is no good
    Upgrade {
        /// Its name or build, or an artifact [default: the newest that has not failed]
        release: Option<String>,
        /// When and whether.
        #[command(flatten)]
        change: Change,
    },
    /// Go back to the last release that was good
    Rollback {
        /// Another one
        release: Option<String>,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// `release` and `upgrade` in one
    Quick {
        /// The artifact
        artifact: PathBuf,
        /// When and whether.
        #[command(flatten)]
        change: Change,
    },
    /// End the server and start it again: requests wait, none is refused
    Restart {
        /// When and whether.
        #[command(flatten)]
        change: Change,
    },
    /// Upgrade the servers of deploy.yaml one after the other; stops at the first failure
    Rolling {
        /// As for `upgrade`; an artifact is copied first
        release: Option<String>,
        /// Only these servers
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
        /// When and whether.
        #[command(flatten)]
        change: Change,
    },
    /// Upgrade up to the second probation: both releases share the traffic until `promote` or `abort`
    Canary {
        /// As for `upgrade`
        release: Option<String>,
        /// How long the second probation takes before the canary waits for a word
        #[arg(long = "for", value_name = "SECONDS", default_value_t = 60)]
        for_s: u64,
        /// When and whether.
        #[command(flatten)]
        change: Change,
    },
    /// Complete a canary
    Promote,
    /// Undo a canary; undo or finish what a run that died has left
    Abort,
    /// How the site stands
    Status,
    /// The releases on this host
    List,
    /// Look at everything once and tell who must know (a timer runs it)
    Monitor {
        /// Only print what is found
        #[arg(long)]
        dry_run: bool,
    },
    /// Look at everything for a while, as after an upgrade
    Watch {
        /// How long
        #[arg(long = "for", value_name = "SECONDS", default_value_t = 1_800)]
        for_s: u64,
        /// How often
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        every: u64,
    },
    /// Apply the migrations of a release
    Migrate {
        /// Its name or build [default: the one that serves]
        release: Option<String>,
        /// Only list them
        #[arg(long)]
        dry_run: bool,
    },
    /// Apply the migrations that remove or restrict, unless a release here needs the old schema
    Contract {
        /// Do it all the same: nothing goes back to those releases by itself any more
        #[arg(long)]
        forget: bool,
        /// Only list them, and what would be lost
        #[arg(long)]
        dry_run: bool,
    },
    /// Go through the checklist, item by item, with evidence
    Checklist {
        /// Which
        #[arg(value_enum)]
        when: When,
        /// The release that is to be deployed (before) [default: the newest]
        #[arg(long)]
        release: Option<String>,
    },
    /// Tell users about a release
    Notice {
        /// major: a day ahead; minor: afterwards; hotfix: at once, with what was fixed
        #[arg(value_enum)]
        level: Level,
        /// What they read
        message: String,
        /// When it takes effect, in the windows' time zone: "2026-11-24 02:00" (major)
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
        /// What was fixed (hotfix)
        #[arg(long, value_name = "TEXT")]
        fixed: Option<String>,
        /// How long requests may wait, in words
        #[arg(long, value_name = "TEXT", default_value = "none")]
        downtime: String,
        /// Only print it
        #[arg(long)]
        dry_run: bool,
    },
    /// What the units of the site call
    #[command(hide = true)]
    Slots {
        /// What happens
        #[arg(value_enum)]
        event: Event,
    },
}

/// Which checklist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// Before an upgrade.
    Before,
    /// Right after it.
    During,
    /// In the half hour after it.
    After,
}

/// What happens to the umbrella.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Event {
    /// It starts.
    Start,
    /// It stops, or is restarted.
    Stop,
    /// Somebody connects and no slot runs.
    Wake,
}

impl Command {
    /// As in the audit log.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Build { .. } => "build",
            Self::Keygen { .. } => "keygen",
            Self::Install { .. } => "install",
            Self::Release { .. } => "release",
            Self::Upgrade { .. } => "upgrade",
            Self::Rollback { .. } => "rollback",
            Self::Quick { .. } => "quick",
            Self::Restart { .. } => "restart",
            Self::Rolling { .. } => "rolling",
            Self::Canary { .. } => "canary",
            Self::Promote => "promote",
            Self::Abort => "abort",
            Self::Status => "status",
            Self::List => "list",
            Self::Monitor { .. } => "monitor",
            Self::Watch { .. } => "watch",
            Self::Migrate { .. } => "migrate",
            Self::Contract { .. } => "contract",
            Self::Checklist { .. } => "checklist",
            Self::Notice { .. } => "notice",
            Self::Slots { .. } => "slots",
        }
    }

    /// Whether it works on what is installed here. The units say by themselves that nothing is (7).
    pub const fn is_of_this_host(&self) -> bool {
        !matches!(
            self,
            Self::Build { .. } | Self::Keygen { .. } | Self::Install { .. } | Self::Rolling { .. } | Self::Slots { .. }
        )
    }

    /// Whether it changes this host, and so takes the lock and leaves a record.
    pub const fn changes(&self) -> bool {
        match self {
            Self::Upgrade { change, .. }
            | Self::Quick { change, .. }
            | Self::Restart { change }
            | Self::Rolling { change, .. }
            | Self::Canary { change, .. } => !change.dry_run,
            Self::Install { dry_run, .. }
            | Self::Release { dry_run, .. }
            | Self::Rollback { dry_run, .. }
            | Self::Migrate { dry_run, .. }
            | Self::Contract { dry_run, .. }
            | Self::Notice { dry_run, .. } => !*dry_run,
            Self::Promote | Self::Abort => true,
            Self::Build { .. }
            | Self::Keygen { .. }
            | Self::Status
            | Self::List
            | Self::Monitor { .. }
            | Self::Watch { .. }
            | Self::Checklist { .. }
            | Self::Slots { .. } => false,
        }
    }
}

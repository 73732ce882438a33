//! Logs and metrics of this process.
//!
//! `tracing` and `metrics` both speak to one recorder per process; [`Logs::install`] and [`install_metrics`] set them, once,
//! from the command that is being run. Everything else is handed what it needs: tests build recorders of their own.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::reload;

use crate::build_info::BUILD_ID;
use crate::config::{self, LogConfig, LogFormat};

/// From 100 microseconds to 30 seconds: an fsync, a request, a drain.
const SECONDS_BUCKETS: [f64; 15] =
    [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The configured filter does not parse. Validation refuses such a configuration before.
    #[error("log.filter = {0:?} is not a filter")]
    Filter(String),
    /// The log file cannot be opened.
    #[error("cannot write the log {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process has a subscriber or recorder already.
    #[error("{0} were set up twice in this process")]
    Twice(&'static str),
    /// The histogram buckets are refused.
    #[error("the histogram buckets are refused")]
    Buckets,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set or `TERM` is `dumb`.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Whether to colour a stream that is, or is not, a terminal.
    pub fn on(self, is_terminal: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => is_terminal && crate::config::terminal_takes_color(),
        }
    }
}

/// Puts another filter in the place of the one in force.
pub type SetFilter = Arc<dyn Fn(&str) -> Result<(), TelemetryError> + Send + Sync>;

/// Where lines go and how they look.
#[derive(Debug)]
pub struct Logs {
    format: LogFormat,
    filter: EnvFilter,
    ansi: bool,
    writer: BoxMakeWriter,
}

impl Logs {
    /// Opens what the configuration names: standard error (with priorities, where the journal reads it), or `hotgo.log` in `log.dir` (mode 0640, appended).
    ///
    /// # Errors
    /// [`TelemetryError::Filter`] and [`TelemetryError::File`].
    pub fn open(config: &LogConfig, color: Color) -> Result<Self, TelemetryError> {
        let filter = EnvFilter::try_new(&config.filter).map_err(|_| TelemetryError::Filter(config.filter.clone()))?;
        let (writer, ansi) = match &config.dir {
            None if stderr_is_the_journal() => (BoxMakeWriter::new(Journal), color == Color::Always),
            None => (BoxMakeWriter::new(io::stderr), color.on(io::stderr().is_terminal())),
            Some(dir) => {
                let path = dir.join("hotgo.log");
                let file = OpenOptions::new().create(true).append(true).mode(0o640).open(&path);
                let file = file.map_err(|source| TelemetryError::File { path, source })?;
                (BoxMakeWriter::new(Arc::new(file)), color == Color::Always)
            }
        };
        Ok(Self { format: config.format, filter, ansi, writer })
    }

    /// The same with another writer, for tests.
    #[must_use]
    pub fn to(mut self, writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static) -> Self {
        self.writer = BoxMakeWriter::new(writer);
        self
    }

    /// Builds the subscriber without making it the process's.
    pub fn subscriber(self) -> (Box<dyn Subscriber + Send + Sync>, SetFilter) {
        let builder = tracing_subscriber::fmt().with_env_filter(self.filter).with_writer(self.writer);
        match self.format {
            LogFormat::Text => {
                let builder = builder.with_ansi(self.ansi).with_filter_reloading();
                let set = set_filter(builder.reload_handle());
                (Box::new(builder.finish()), set)
            }
            LogFormat::Json => {
                let builder = builder.json().flatten_event(true).with_filter_reloading();
                let set = set_filter(builder.reload_handle());
                (Box::new(builder.finish()), set)
            }
        }
    }

    /// Makes it the process's, and returns what changes its filter.
    ///
    /// # Errors
    /// [`TelemetryError::Twice`].
    pub fn install(self) -> Result<SetFilter, TelemetryError> {
        let (subscriber, set_filter) = self.subscriber();
        tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::Twice("logs"))?;
        Ok(set_filter)
    }
}

/// Whether the journal reads what is written to standard error: it is the stream that `JOURNAL_STREAM` names by device and inode
/// (systemd.exec(5)), and not one that somebody put in its place.
pub fn stderr_is_the_journal() -> bool {
    let Some(named) = config::journal_stream() else { return false };
    let stderr = io::stderr().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    stderr.is_ok_and(|stderr| named == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// Standard error, each line with its priority before it, which the journal takes off and files the line under (sd-daemon(3)):
/// so `journalctl -p err` finds the errors.
struct Journal;

impl MakeWriter<'_> for Journal {
    type Writer = JournalLines;

    fn make_writer(&self) -> JournalLines {
        JournalLines("<6>")
    }

    fn make_writer_for(&self, meta: &Metadata<'_>) -> JournalLines {
        JournalLines(match *meta.level() {
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            _ => "<7>",
        })
    }
}

/// Takes an event's lines in one call, as the subscriber writes them.
struct JournalLines(&'static str);

impl Write for JournalLines {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let prefixed: Vec<u8> =
            lines.split_inclusive(|byte| *byte == b'\n').flat_map(|line| [self.0.as_bytes(), line].concat()).collect();
        io::stderr().write_all(&prefixed).map(|()| lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn set_filter<S: 'static>(handle: reload::Handle<EnvFilter, S>) -> SetFilter {
    Arc::new(move |text| {
        let refused = |_| TelemetryError::Filter(text.to_owned());
        let filter = EnvFilter::try_new(text).map_err(refused)?;
        // An error means that the subscriber is gone, and with it all lines.
        handle.reload(filter).map_err(|_| TelemetryError::Filter(text.to_owned()))
    })
}

/// A recorder of its own: histograms named `.._seconds` have buckets from 100 microseconds to 30 seconds.
///
/// Whoever holds its handle renders it or calls `run_upkeep` every few seconds (the private listener does), otherwise
/// histogram samples pile up.
///
/// # Errors
/// [`TelemetryError::Buckets`].
pub fn recorder() -> Result<PrometheusRecorder, TelemetryError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
        .map_err(|_| TelemetryError::Buckets)?;
    Ok(builder.build_recorder())
}

/// Makes a recorder the process's, and returns the handle that renders it. Names the build as `hotgo_build_info`.
///
/// # Errors
/// [`TelemetryError::Twice`] and [`TelemetryError::Buckets`].
pub fn install_metrics() -> Result<PrometheusHandle, TelemetryError> {
    let recorder = recorder()?;
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| TelemetryError::Twice("metrics"))?;
    metrics::describe_gauge!("hotgo_build_info", "1, with the build as label");
    metrics::gauge!("hotgo_build_info", "build_id" => BUILD_ID).set(1.0);
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::{Color, Logs, recorder};
    use crate::config::{LogConfig, LogFormat};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, color: Color) -> String {
        let config = LogConfig { format, filter: "info".to_owned(), dir: None };
        let shared = Shared::default();
        let writer = shared.clone();
        let subscriber = Logs::open(&config, color).unwrap().to(move || writer.clone()).subscriber().0;
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(account = 7, "filled");
            tracing::debug!("hidden");
        });
        let bytes = shared.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_has_no_escape_codes_unless_asked_for_and_obeys_the_filter() {
        let text = logged(LogFormat::Text, Color::Never);
        assert!(text.contains("filled") && text.contains("account=7"), "{text}");
        assert!(!text.contains("hidden") && !text.contains('\u{1b}'), "{text}");
        assert!(logged(LogFormat::Text, Color::Always).contains('\u{1b}'));
    }

    #[test]
    fn json_is_one_object_a_line_without_escape_codes() {
        let line: serde_json::Value = serde_json::from_str(logged(LogFormat::Json, Color::Always).trim()).unwrap();
        assert_eq!((&line["message"], &line["account"], &line["level"]), (&"filled".into(), &7.into(), &"INFO".into()));
    }

    #[test]
    fn a_log_directory_collects_lines_by_appending() {
        let dir = tempfile::tempdir().unwrap();
        let config = LogConfig { format: LogFormat::Text, filter: "info".to_owned(), dir: Some(dir.path().to_owned()) };
        for _ in 0..2 {
            let subscriber = Logs::open(&config, Color::Auto).unwrap().subscriber().0;
            tracing::subscriber::with_default(subscriber, || tracing::info!("started"));
        }
        let text = std::fs::read_to_string(dir.path().join("hotgo.log")).unwrap();
        assert_eq!(text.matches("started").count(), 2);
    }

    #[test]
    fn durations_are_histograms_with_buckets() {
        let recorder = recorder().unwrap();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || metrics::histogram!("commit_seconds").record(0.002));
        let text = handle.render();
        assert!(text.contains("commit_seconds_bucket{le=\"0.0025\"} 1"), "{text}");
    }
}

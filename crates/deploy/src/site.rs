//! What every command works with.

use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;

use crate::config::Config;
use crate::error::Error;
use crate::instance::{Instance, Status};
use crate::layout::{Colour, Layout};
use crate::output::Output;
use crate::process::Interrupt;
use crate::release::Release;
use crate::systemd::{SERVICE, SOCKET, Systemd, Unit};

/// How often a state that is waited for is looked at.
pub const POLL: Duration = Duration::from_millis(200);

/// The user that the server runs as.
pub const USER: &str = "hotgo";

/// One host with its server.
#[derive(Debug)]
pub struct Site {
    /// Where everything is.
    pub layout: Layout,
    /// `deploy.yaml`.
    pub config: Config,
    /// Its systemd.
    pub systemd: Systemd,
    /// Where words go.
    pub out: Output,
    /// Signals.
    pub interrupt: Interrupt,
    /// The server's user, if we are root on a real host: what belongs to the server runs as that one. Below another root
    /// everything is ours.
    pub user: Option<&'static str>,
    /// Who runs us.
    pub by: String,
}

impl Site {
    /// The server in a slot.
    pub fn instance(&self, colour: Colour) -> Instance {
        Instance::new(self.layout.socket(colour))
    }

    /// How a slot's unit stands.
    ///
    /// # Errors
    /// When systemd cannot be asked.
    pub fn unit(&self, colour: Colour) -> Result<Unit, Error> {
        self.systemd.show(&colour.unit())
    }

    /// Refuses when systemd does not know the units that a slot needs.
    ///
    /// # Errors
    /// [`Error::Preflight`] names the unit.
    pub fn check_units(&self, colour: Colour) -> Result<(), Error> {
        for unit in [SERVICE, SOCKET, &colour.unit()] {
            let load = self.systemd.show(unit)?.load;
            if load != "loaded" {
                return Err(Error::Preflight(format!(
                    "systemd says that {unit} is {load}: `hotgo-deploy install` writes the units"
                )));
            }
        }
        Ok(())
    }

    /// Refuses where nothing is installed.
    ///
    /// # Errors
    /// [`Error::Preflight`] names the root.
    pub fn check_installed(&self) -> Result<(), Error> {
        if self.layout.releases().is_dir() {
            return Ok(());
        }
        let root = self.layout.root.display();
        Err(Error::Preflight(format!(
            "hotgo is not installed below {root}: `hotgo-deploy install` does that, and --root names another root"
        )))
    }

    /// The server in a slot, if it lives: this process of systemd's, this build, and it answers. One account in quarantine
    /// makes it not ready, and it serves all others.
    ///
    /// # Errors
    /// [`Error::Remote`] says what is wrong. Takes no longer than an answer may.
    pub fn alive(&self, colour: Colour, build_id: &str) -> Result<Status, Error> {
        let sick = |what: String| Err(Error::Remote(what));
        let unit = self.unit(colour)?;
        if !unit.is_active() {
            return sick(format!("{} is {} ({})", colour.unit(), unit.state, unit.result));
        }
        let status = self.instance(colour).status()?;
        if status.pid != unit.main_pid {
            return sick(format!("process {} answers, but systemd's is {}", status.pid, unit.main_pid));
        }
        if status.build_id != build_id {
            return sick(format!("it is build {}, and {build_id} was to start", status.build_id));
        }
        Ok(status)
    }

    /// The server in a slot, if it lives and is ready.
    ///
    /// # Errors
    /// As [`Site::alive`].
    pub fn healthy(&self, colour: Colour, build_id: &str) -> Result<Status, Error> {
        let status = self.alive(colour, build_id)?;
        if status.ready { Ok(status) } else { Err(Error::Remote(format!("it is not ready ({})", status.phase))) }
    }

    /// The colour that serves, and its release, if its server is healthy.
    pub fn serving(&self) -> Option<(Colour, Release, Status)> {
        let colour = self.layout.active()?;
        let release = Release::load(&self.layout, &self.layout.slot(colour)?).ok()?;
        let status = self.healthy(colour, &release.manifest.build_id).ok()?;
        Some((colour, release, status))
    }

    /// Waits until something is so.
    ///
    /// # Errors
    /// What was wrong at last, when `timeout` has passed; [`Error::Interrupted`] at once.
    pub fn wait_for<T>(&self, timeout: Duration, mut is: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        let end = Instant::now() + timeout;
        loop {
            match is() {
                Err(Error::Interrupted { signal, state }) => return Err(Error::Interrupted { signal, state }),
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => self.interrupt.sleep(POLL)?,
                done => return done,
            }
        }
    }

    /// Whether the site is to run: nobody has stopped it.
    pub fn is_wanted(&self) -> bool {
        self.systemd.show(SERVICE).is_ok_and(|unit| unit.is_wanted()) && !self.systemd.is_stopping().unwrap_or(false)
    }

    /// Refuses when `bytes` more would leave too little on the disk of the releases.
    ///
    /// # Errors
    /// [`Error::Space`] with the figures.
    pub fn check_space(&self, bytes: u64) -> Result<(), Error> {
        let dir = self.layout.releases();
        let disk = statvfs(&dir).map_err(|error| Error::at("look at the disk of", &dir)(error.into()))?;
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        let reserve = self.config.releases.min_free_mb << 20;
        if free < bytes.saturating_add(reserve) {
            let mb = |bytes: u64| bytes.div_ceil(1 << 20);
            return Err(Error::Space(format!(
                "not enough space in {}: {} MB free, {} MB needed and {} MB to stay free",
                dir.display(),
                free >> 20,
                mb(bytes),
                mb(reserve)
            )));
        }
        Ok(())
    }
}

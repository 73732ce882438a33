//! User, directories, units and configuration. What is there already and right is left alone; configuration is never replaced.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::unistd::{Gid, Uid, User, chown};
use serde_json::json;

use crate::error::Error;
use crate::layout::{make_dir, write_file};
use crate::process;
use crate::site::{Site, USER};

/// The skeleton of `deploy.yaml`.
pub const DEPLOY_YAML: &str = include_str!("../../../manifest/systemd/deploy.yaml");

const CONFIG_YAML: &str = "# Only what differs from the release's manifest/config/defaults.yaml. `hotgo-deploy checklist before` has `main check` read it.\n\
    data_dir: /var/lib/hotgo\n";

const UNITS: [(&str, &str); 8] = [
    ("hotgo.service", include_str!("../../../manifest/systemd/hotgo.service")),
    ("hotgo.socket", include_str!("../../../manifest/systemd/hotgo.socket")),
    ("hotgo@.service", include_str!("../../../manifest/systemd/hotgo@.service")),
    ("hotgo@blue.service.d/slot.conf", include_str!("../../../manifest/systemd/hotgo@blue.service.d/slot.conf")),
    ("hotgo@green.service.d/slot.conf", include_str!("../../../manifest/systemd/hotgo@green.service.d/slot.conf")),
    ("hotgo-wake.service", include_str!("../../../manifest/systemd/hotgo-wake.service")),
    ("hotgo-monitor.service", include_str!("../../../manifest/systemd/hotgo-monitor.service")),
    ("hotgo-monitor.timer", include_str!("../../../manifest/systemd/hotgo-monitor.timer")),
];
const ENABLED: [&str; 3] = ["hotgo.socket", "hotgo.service", "hotgo-monitor.timer"];
const QUICK: Duration = Duration::from_secs(30);
/// This very program, also after its file was replaced.
const OURSELVES: &str = "/proc/self/exe";

/// Who owns a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Root,
    /// Root, readable by the server.
    Group,
    Server,
}

struct Install<'a> {
    site: &'a Site,
    dry_run: bool,
    did: Vec<String>,
}

/// Installs, or says what that would change.
///
/// # Errors
/// [`Error::Rights`] for everybody but root; otherwise what could not be made.
pub fn run(site: &Site, key: Option<&Path>, dry_run: bool) -> Result<(), Error> {
    let host = site.layout.root == Path::new("/");
    if host && !dry_run && !Uid::effective().is_root() {
        return Err(Error::Rights("only root can install".to_owned()));
    }
    let mut install = Install { site, dry_run, did: Vec::new() };
    let user = install.user(host)?;
    install.directories(user)?;
    install.configuration(user, key)?;
    install.tool()?;
    if install.units()? && !dry_run {
        site.systemd.daemon_reload()?;
    }
    if !dry_run {
        site.systemd.enable(&ENABLED)?;
    }
    let did = install.did;
    let text = if did.is_empty() { "everything was installed already".to_owned() } else { did.join("\n") };
    site.out.result(&text, &json!({ "dry_run": dry_run, "changes": did }));
    Ok(())
}

impl Install<'_> {
    fn note(&mut self, what: String) {
        self.did.push(if self.dry_run { format!("would {what}") } else { what });
    }

    /// None if we are not root, or below another root: then everything is ours.
    fn user(&mut self, host: bool) -> Result<Option<(Uid, Gid)>, Error> {
        if !Uid::effective().is_root() || !host {
            return Ok(None);
        }
        if let Some(user) = User::from_name(USER).ok().flatten() {
            return Ok(Some((user.uid, user.gid)));
        }
        self.note(format!("add the user and group {USER}"));
        if self.dry_run {
            return Ok(None);
        }
        let mut add = Command::new("useradd");
        add.args(["--system", "--user-group", "--no-create-home", "--home-dir", "/var/lib/hotgo"]);
        add.args(["--shell", "/usr/sbin/nologin", USER]);
        let done = process::run(&mut add, None, QUICK, &self.site.interrupt)?;
        let user = User::from_name(USER).ok().flatten();
        user.map(|user| Some((user.uid, user.gid)))
            .ok_or_else(|| Error::Config(format!("cannot add the user {USER}: {}", done.last_words())))
    }

    fn directories(&mut self, user: Option<(Uid, Gid)>) -> Result<(), Error> {
        let layout = &self.site.layout;
        let wanted = [
            (layout.releases(), 0o755, Owner::Root),
            (layout.home().join("slots"), 0o755, Owner::Root),
            (layout.etc(), 0o750, Owner::Group),
            (layout.etc().join("secrets"), 0o750, Owner::Group),
            (layout.keys(), 0o755, Owner::Root),
            (layout.data(), 0o750, Owner::Server),
            (layout.state(), 0o755, Owner::Root),
            (layout.root.join("run/hotgo-deploy"), 0o755, Owner::Root),
        ];
        for (dir, mode, owner) in wanted {
            if dir.is_dir() {
                continue;
            }
            self.note(format!("make {}", dir.display()));
            if !self.dry_run {
                make_dir(&dir, 0o755)?;
                fs::set_permissions(&dir, fs::Permissions::from_mode(mode))
                    .map_err(Error::at("set the mode of", &dir))?;
                own(&dir, user, owner)?;
            }
        }
        Ok(())
    }

    /// Only what is missing.
    fn configuration(&mut self, user: Option<(Uid, Gid)>, key: Option<&Path>) -> Result<(), Error> {
        let layout = &self.site.layout;
        let etc = layout.etc();
        for (name, text) in [("deploy.yaml", DEPLOY_YAML), ("config.yaml", CONFIG_YAML)] {
            let path = etc.join(name);
            if !path.exists() {
                self.write(&path, text.as_bytes(), 0o640)?;
                if !self.dry_run {
                    own(&path, user, Owner::Group)?;
                }
            }
        }
        if let Some(key) = key {
            let text = fs::read(key).map_err(Error::at("read", key))?;
            let name = key.file_name().unwrap_or_default();
            if Path::new(name).extension().is_none_or(|extension| extension != "pub") {
                return Err(Error::Usage(format!(
                    "{} is no public key: give the file that ends in .pub",
                    key.display()
                )));
            }
            self.replace(&layout.keys().join(name), &text, 0o644)?;
        }
        Ok(())
    }

    fn tool(&mut self) -> Result<(), Error> {
        let ours = std::env::current_exe().map_err(Error::io("cannot find this program"))?;
        let path = self.site.layout.root.join("usr/local/sbin/hotgo-deploy");
        if ours.canonicalize().is_ok_and(|ours| path.canonicalize().is_ok_and(|path| path == ours)) {
            return Ok(());
        }
        // Not by its name: another file may have that by now.
        let text = fs::read(OURSELVES).map_err(Error::at("read", &ours))?;
        self.replace(&path, &text, 0o755).map(|_| ())
    }

    /// Whether one of them has changed.
    fn units(&mut self) -> Result<bool, Error> {
        let dir = self.site.layout.root.join("etc/systemd/system");
        let mut changed = false;
        for (name, text) in UNITS {
            changed |= self.replace(&dir.join(name), text.as_bytes(), 0o644)?;
        }
        Ok(changed)
    }

    fn replace(&mut self, path: &PathBuf, text: &[u8], mode: u32) -> Result<bool, Error> {
        if fs::read(path).is_ok_and(|found| found == text) {
            return Ok(false);
        }
        self.write(path, text, mode)?;
        Ok(true)
    }

    fn write(&mut self, path: &Path, text: &[u8], mode: u32) -> Result<(), Error> {
        self.note(format!("write {}", path.display()));
        if self.dry_run {
            return Ok(());
        }
        make_dir(path.parent().unwrap_or(Path::new("/")), 0o755)?;
        write_file(path, text, mode)
    }
}

fn own(path: &Path, user: Option<(Uid, Gid)>, owner: Owner) -> Result<(), Error> {
    let Some((uid, gid)) = user else { return Ok(()) };
    let (uid, gid) = match owner {
        Owner::Root => return Ok(()),
        Owner::Group => (Uid::from_raw(0), gid),
        Owner::Server => (uid, gid),
    };
    chown(path, Some(uid), Some(gid)).map_err(|error| Error::at("change the owner of", path)(error.into()))
}

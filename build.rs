//! Gives the binary its build id: the version, the commit, and whether the tree differed from it.
//!
//! `HOTGO_BUILD_ID` in the environment wins, for builds from an archive. Without git the version stands alone.

use std::path::Path;
use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn main() {
    println!("cargo:rerun-if-env-changed=HOTGO_BUILD_ID");
    let watched = ["build.rs", "Cargo.toml", "Cargo.lock", "src", "crates", "migrations", "manifest"];
    let head = git(&["rev-parse", "--git-path", "logs/HEAD"]);
    for path in watched.into_iter().chain(head.as_deref()).filter(|path| Path::new(path).exists()) {
        println!("cargo:rerun-if-changed={path}");
    }
    let version = env!("CARGO_PKG_VERSION");
    let given = std::env::var_os("HOTGO_BUILD_ID").and_then(|id| id.into_string().ok()).filter(|id| !id.is_empty());
    let id = given.unwrap_or_else(|| match git(&["rev-parse", "--short=12", "HEAD"]) {
        Some(commit) => {
            let clean =
                git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| changes.is_empty());
            format!("{version}+{commit}{}", if clean { "" } else { ".dirty" })
        }
        None => version.to_owned(),
    });
    println!("cargo:rustc-env=HOTGO_BUILD_ID={id}");
}

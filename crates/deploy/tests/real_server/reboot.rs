//! The machine boots again: `BOX_DISK` must be set, so that what was written is there.

use std::process::Command;

use crate::inside::{BOX, begin, end, inside};
use crate::site::{Load, Site, at_step, audit, tool};

fn the_box(command: &str) {
    let run = Command::new(BOX).arg(command).env("BOX_DOWN_TIMEOUT", "90").output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
#[ignore = "needs a systemd in namespaces: see main.rs"]
fn a_boot_starts_what_was_committed_and_nothing_else() {
    assert!(std::env::var_os("BOX_DISK").is_some_and(|disk| !disk.is_empty()), "BOX_DISK is not set");
    let site = Site::serving();
    let [a, b] = &site.builds;
    tool(&format!("upgrade {b}")).ends_with(0);
    let load = Load::begin();
    the_box("down");
    the_box("up");
    load.breaks_off();
    site.assert_serves(b);
    inside("systemctl is-active hotgo@green").ends_with(0);
    inside("systemctl is-active hotgo@blue").ends_with(3);
    audit();
    // What an upgrade needs is there after a boot too. Then the power fails in the middle of one.
    let [mut serves, mut other] = [b, a];
    for (step, committed) in [("traffic", false), ("hand-over", false), ("drain", true)] {
        let load = Load::begin();
        let upgrade = begin(&format!("hotgo-deploy upgrade {other}"));
        end(at_step(step, "true")).ends_with(0);
        the_box("cut");
        end(upgrade);
        load.breaks_off();
        the_box("up");
        site.assert_serves(if committed { other } else { serves });
        audit();
        tool(&format!("upgrade {other}")).ends_with(0).says("cut short");
        site.assert_serves(other);
        (serves, other) = (other, serves);
    }
}

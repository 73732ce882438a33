//! The report of a shutdown: as JSON, as a table, as a picture.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "tests"
)]

mod samples;

#[test]
fn show() {
    for (name, value) in samples::all() {
        let report = samples::read(&value);
        std::fs::write(format!("{}/{name}.svg", env!("CARGO_TARGET_TMPDIR")), report.to_svg()).unwrap();
        println!("{}", report.table().colored(false));
    }
}

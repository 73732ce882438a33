//! `contract`: applies the migrations that remove or restrict, unless a release that one could go back to needs the old schema.

use serde_json::json;

use crate::error::Error;
use crate::release::{Release, schema_of};
use crate::site::Site;

/// Asks the release that serves what contracts, and who else could work on the result, before it is done.
///
/// # Errors
/// [`Error::Needed`] names the releases that would be lost; `forget` marks them instead, so that nothing goes back to them by itself.
/// [`Error::Preflight`] with what the release says, such as who is in the way.
pub fn run(site: &Site, forget: bool, dry_run: bool) -> Result<(), Error> {
    let layout = &site.layout;
    let Some(name) = layout.current() else {
        return Err(Error::NoRelease("no release serves here yet".to_owned()));
    };
    let release = Release::load(layout, &name)?;
    let due = release.due_contracts(site)?;
    let Some(schema) = due.iter().map(|step| step.version).max() else {
        let nothing = json!({ "release": name, "dry_run": dry_run, "migrations": due, "forgotten": [] });
        site.out.result("nothing to apply", &nothing);
        return Ok(());
    };
    let lost = lost(&release, site, schema)?;
    if !lost.is_empty() && !forget {
        let of = |release: &Release| format!("{} (schema {} at most)", release.name, release.manifest.schema.max);
        let names: Vec<String> = lost.iter().map(of).collect();
        return Err(Error::Needed(format!("it makes schema {schema}, and nothing goes back to: {}", names.join(", "))));
    }
    if !dry_run {
        for release in &lost {
            let why = format!("forgotten by {}: schema {schema} is beyond it", site.by);
            Release::set_failed(layout, &release.name, &why)?;
        }
        release.contract(site)?;
    }
    let (did, gave_up) = if dry_run { ("would apply", "would forget") } else { ("applied", "forgot") };
    let mut lines: Vec<String> =
        due.iter().map(|step| format!("{did} {} {}", step.version, step.description)).collect();
    lines.extend(lost.iter().map(|release| format!("{gave_up} {}", release.name)));
    let lost: Vec<&str> = lost.iter().map(|release| release.name.as_str()).collect();
    site.out.result(
        &lines.join("\n"),
        &json!({ "release": name, "dry_run": dry_run, "migrations": due, "forgotten": lost }),
    );
    Ok(())
}

/// Releases that work on the database as it is, and not on this schema. One that failed is no way back.
fn lost(serving: &Release, site: &Site, schema: i64) -> Result<Vec<Release>, Error> {
    let found = schema_of(&serving.migrations(site)?);
    let mut all = Release::all(&site.layout);
    all.retain(|release| {
        let accepted = release.manifest.schema;
        let is_lost = (accepted.min..=accepted.max).contains(&found) && accepted.max < schema;
        is_lost && release.failure(&site.layout).is_none()
    });
    Ok(all)
}

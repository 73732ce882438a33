//! The plan's checklists, each item carried out and shown with its evidence.

use serde_json::json;

use crate::cli::When;
use crate::config::seconds;
use crate::error::Error;
use crate::journal::Record;
use crate::monitor::{self, Finding};
use crate::release::{Migration, Release, schema_of};
use crate::site::Site;
use crate::time;
use crate::windows::Impact;

const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// Goes through a list.
///
/// # Errors
/// [`Error::Unhealthy`] names the items that are not as they should be.
pub fn run(site: &Site, when: When, release: Option<&str>) -> Result<(), Error> {
    let items = match when {
        When::Before => before(site, release)?,
        When::During => during(site),
        When::After => after(site),
    };
    let lines: Vec<String> = items.iter().map(|item| item.line(site)).collect();
    site.out.result(&lines.join("\n"), &json!(items));
    let bad: Vec<&str> = items.iter().filter(|item| item.ok == Some(false)).map(|item| item.name.as_str()).collect();
    if bad.is_empty() { Ok(()) } else { Err(Error::Unhealthy(format!("not as it should be: {}", bad.join(", ")))) }
}

fn item(name: &str, result: Result<String, Error>) -> Finding {
    let (ok, detail) = match result {
        Ok(detail) => (true, detail),
        Err(error) => (false, error.to_string()),
    };
    Finding { name: name.to_owned(), ok: Some(ok), detail }
}

/// Tested and signed code, migrations, a way back, the window, space, and people who know.
fn before(site: &Site, name: Option<&str>) -> Result<Vec<Finding>, Error> {
    let layout = &site.layout;
    let release = match name {
        Some(name) => Release::find(layout, name)?,
        None => Release::newest(layout)?,
    };
    let steps = release.migrations(site);
    let of = |steps: &[Migration], state: &str| {
        let due = steps.iter().filter(|step| step.state == state);
        due.map(|step| format!("{} {}", step.version, step.description)).collect::<Vec<_>>().join(", ")
    };
    // Once its own are applied.
    let schema = steps.as_ref().map_or(0, |steps| {
        let pending = steps.iter().filter(|step| step.state == "pending").map(|step| step.version);
        pending.chain([schema_of(steps)]).max().unwrap_or(0)
    });
    let migrations = steps.map(|steps| match (of(&steps, "pending"), of(&steps, "contract")) {
        (pending, later) if pending.is_empty() && later.is_empty() => "none pending".to_owned(),
        (pending, later) if later.is_empty() => format!("pending: {pending}"),
        (pending, later) => format!("pending: {pending}; days later, by `hotgo-deploy contract`: {later}"),
    });
    let way_back = layout.current().or_else(|| layout.last_good()).map_or_else(
        || Ok("nothing serves yet: there is nothing to go back to".to_owned()),
        |name| way_back(&Release::load(layout, &name)?, schema),
    );
    let window = site.config.windows.check(Impact::None, time::now_ms()).map(|()| "open".to_owned());
    let mut notices = Record::all(layout).into_iter().filter(|record| record.command == "notice" && record.exit == 0);
    let recent = notices.rfind(|record| is_recent(record, 7 * DAY_MS));
    Ok(vec![
        item("release", release.verify().map(|()| format!("{} is as it was built and signed", release.name))),
        item(
            "earlier-failure",
            match release.failure(layout) {
                None => Ok("none".to_owned()),
                Some(why) => Err(Error::Unhealthy(why)),
            },
        ),
        item("migrations", migrations),
        item(
            "configuration",
            release.check(site).map(|()| "`main check` accepts configuration, database and Redis".to_owned()),
        ),
        item("way-back", way_back),
        item("window", window),
        item("space", site.check_space(0).map(|()| "enough".to_owned())),
        Finding {
            name: "people-told".to_owned(),
            ok: recent.is_some().then_some(true),
            detail: recent.map_or_else(
                || "no notice in the last week: a major release wants one a day ahead".to_owned(),
                |record| format!("notice of {} by {}", record.at, record.by),
            ),
        },
    ])
}

fn way_back(release: &Release, schema: i64) -> Result<String, Error> {
    release.verify()?;
    let (name, max) = (&release.name, release.manifest.schema.max);
    if schema > max {
        return Err(Error::Unhealthy(format!(
            "{name} accepts schema {max} at most, and the database will have {schema}"
        )));
    }
    Ok(format!("{name} is here and as it was built, and accepts the schema"))
}

fn is_recent(record: &Record, within_ms: u64) -> bool {
    // RFC 3339 in UTC sorts as it reads.
    record.at >= time::rfc3339(time::now_ms().saturating_sub(within_ms))
}

/// The last run, step by step; then service, health, log, robots and websockets as they are.
fn during(site: &Site) -> Vec<Finding> {
    let mut runs = Record::all(&site.layout).into_iter().filter(|record| record.to.is_some());
    let mut items = Vec::new();
    let mut since = time::now_ms().saturating_sub(DAY_MS);
    match runs.next_back() {
        Some(run) => {
            since = time::parse(run.at.trim_end_matches('Z').get(..16).unwrap_or_default(), 0).unwrap_or(since);
            let to = run.to.clone().unwrap_or_default();
            items.push(Finding {
                name: "last-run".to_owned(),
                ok: Some(run.exit == 0),
                detail: format!("{} of {to} at {} by {}: {}", run.command, run.at, run.by, run.outcome),
            });
            for step in run.steps {
                let detail = format!("{} ({} ms)", step.detail, step.ms);
                items.push(Finding { name: step.step, ok: Some(step.ok), detail });
            }
        }
        None => {
            items.push(Finding { name: "last-run".to_owned(), ok: None, detail: "no upgrade is on record".to_owned() });
        }
    }
    items.extend(
        monitor::look(site, None).into_iter().filter(|item| {
            ["service", "health", "robots", "unknown-orders", "unfinished"].contains(&item.name.as_str())
        }),
    );
    items.push(websockets(site));
    items.push(monitor::errors(site, since));
    items
}

fn websockets(site: &Site) -> Finding {
    let sessions = site.serving().map(|(_, _, status)| format!("{} sessions", status.sessions));
    item("websockets", sessions.ok_or_else(|| Error::Unhealthy("nothing serves".to_owned())))
}

/// Load, the server's own test of database, Redis, venue and a request, trading, and the log.
fn after(site: &Site) -> Vec<Finding> {
    let mut items = monitor::look(site, None);
    match site
        .layout
        .active()
        .map(|colour| site.instance(colour).self_test(seconds(site.config.upgrade.check_timeout_s)))
    {
        Some(Ok(test)) => items.extend(test.checks.into_iter().map(|check| Finding {
            name: check.name,
            ok: Some(check.ok),
            detail: check.detail,
        })),
        Some(Err(error)) => items.push(item("self-test", Err(error))),
        None => items.push(item("self-test", Err(Error::Unhealthy("nothing serves".to_owned())))),
    }
    items.push(websockets(site));
    items.push(monitor::errors(site, time::now_ms().saturating_sub(30 * 60 * 1_000)));
    items
}

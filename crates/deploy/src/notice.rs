//! Whom to tell, and how: mail by `sendmail`, a webhook by `curl` (the host's TLS roots and proxies are its own), and users
//! through the server. The plan: a major release a day ahead, a minor one afterwards, a hotfix at once with what was fixed.

use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

use crate::config::NotifyConfig;
use crate::error::Error;
use crate::process;
use crate::site::Site;
use crate::time;
use crate::windows::Offset;

const SEND: Duration = Duration::from_secs(15);
const AHEAD_MS: u64 = 24 * 3_600 * 1_000;

/// How much a release matters to users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// May affect trading: told a day ahead.
    Major,
    /// Told afterwards.
    Minor,
    /// Told at once, with what was fixed.
    Hotfix,
}

/// What users are told.
#[derive(Debug, Clone, Serialize)]
pub struct Notice {
    severity: Level,
    message: String,
    effective_at: Option<u64>,
    #[serde(skip)]
    when: Option<String>,
}

impl Notice {
    /// One that follows the plan's rules.
    ///
    /// # Errors
    /// [`Error::Usage`] names the rule that is broken.
    pub fn new(
        site: &Site,
        severity: Level,
        message: &str,
        at: Option<&str>,
        fixed: Option<&str>,
        downtime: &str,
    ) -> Result<Self, Error> {
        let Offset(offset) = site.config.windows.utc_offset;
        let effective_at = match at {
            Some(text) => Some(
                time::parse(text, offset)
                    .ok_or_else(|| Error::Usage(format!("{text:?} is no time: \"2026-11-24 02:00\"")))?,
            ),
            None => None,
        };
        let mut message = message.trim().to_owned();
        match (severity, effective_at, fixed) {
            _ if message.is_empty() => return Err(Error::Usage("a notice says something".to_owned())),
            (Level::Major, None, _) => {
                return Err(Error::Usage("a major release is announced with its time: --at".to_owned()));
            }
            (Level::Major, Some(at), _) if at < time::now_ms().saturating_add(AHEAD_MS) => {
                return Err(Error::Usage(
                    "a major release is announced 24 hours ahead; a hotfix may be at once".to_owned(),
                ));
            }
            (Level::Major, ..) => message = format!("{message} (expected downtime: {downtime})"),
            (Level::Minor, ..) => {}
            (Level::Hotfix, _, None) => return Err(Error::Usage("a hotfix says what was fixed: --fixed".to_owned())),
            (Level::Hotfix, _, Some(fixed)) => message = format!("{message} (fixed: {fixed})"),
        }
        Ok(Self { severity, message, effective_at, when: at.map(str::to_owned) })
    }

    /// As people read it.
    pub fn text(&self) -> String {
        let level = self.severity.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let when = self.when.as_ref().map(|when| format!(" at {when}")).unwrap_or_default();
        format!("{level}{when}: {}", self.message)
    }

    /// Gives it to the server, which stores, serves and pushes it; to the webhook and to the mail addresses of users.
    ///
    /// # Errors
    /// [`Error::Unhealthy`] when one of them did not take it. The others have it.
    pub fn send(&self, site: &Site) -> Result<(), Error> {
        let mut failures = Vec::new();
        let mut told = Vec::new();
        match site.layout.active() {
            Some(colour) => match site.instance(colour).post("/notices", Some(json!(self))) {
                Ok(()) => told.push("server".to_owned()),
                Err(error) => failures.push(format!("server: {error}")),
            },
            None => failures.push("server: none serves here".to_owned()),
        }
        let notify = &site.config.notify;
        let mail = &notify.users_mail;
        let body = json!({ "kind": "notice", "notice": self });
        deliver(site, notify, mail, "hotgo: notice", &self.text(), &body, &mut told, &mut failures);
        site.out
            .result(&format!("{}\ntold: {}", self.text(), told.join(", ")), &json!({ "notice": self, "told": told }));
        if failures.is_empty() { Ok(()) } else { Err(Error::Unhealthy(failures.join("\n"))) }
    }
}

/// Sends to the webhook and to these addresses; the failure of one does not keep the other from being tried.
#[expect(clippy::too_many_arguments, reason = "one message, in each of its forms, and what came of it")]
pub fn deliver(
    site: &Site,
    notify: &NotifyConfig,
    addresses: &[String],
    subject: &str,
    text: &str,
    body: &Value,
    told: &mut Vec<String>,
    failures: &mut Vec<String>,
) {
    let mut send = |name: String, command: &mut Command, input: &str| match process::run(
        command,
        Some(input.as_bytes()),
        SEND,
        &site.interrupt,
    ) {
        Ok(done) if done.status.success() => told.push(name),
        Ok(done) => failures.push(format!("{name}: {}: {}", done.status, done.last_words())),
        Err(error) => failures.push(format!("{name}: {error}")),
    };
    if let Some(url) = &notify.webhook {
        let mut curl = Command::new("curl");
        curl.args([
            "-fsS",
            "--max-time",
            "10",
            "-H",
            "Content-Type: application/json",
            "--data-binary",
            "@-",
            "--",
            url,
        ]);
        send(format!("webhook {url}"), &mut curl, &body.to_string());
    }
    for address in addresses {
        // A line break would begin another header.
        let [to, subject] = [address.as_str(), subject].map(|text| text.replace(['\r', '\n'], " "));
        let mail = format!("To: {to}\nSubject: {subject}\nContent-Type: text/plain; charset=utf-8\n\n{text}\n");
        send(format!("mail {address}"), Command::new(&notify.sendmail).args(["-i", "--", &to]), &mail);
    }
}

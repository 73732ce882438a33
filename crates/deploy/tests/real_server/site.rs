//! The only site in the box, and the clients that work on it.

use std::fs::File;
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::inside::{Run, begin, end, inside, site_log, turn};

/// `target/release`.
pub(crate) const BUILT: &str = "/usr/local/lib/hotgo-test";
pub(crate) const SOCKETS: u32 = 200;
/// As [`INSTALL`] makes them.
const ROBOTS: u64 = 4;

/// Two builds of one binary: an equal number of the id's bytes is replaced, those that the compiler loads as one.
const INSTALL: &str = r#"
set -e
systemctl stop hotgo.service hotgo.socket hotgo@blue hotgo@green hotgo-monitor.timer 2>/dev/null || true
systemctl reset-failed 2>/dev/null || true
rm -rf /opt/hotgo /etc/hotgo /var/lib/hotgo* /run/hotgo* /srv/t; mkdir -p /srv/t /etc/hotgo; cd /srv/t; date +%s >begin
cat >/etc/hotgo/deploy.yaml <<Y
upgrade: {probation_s: 1, traffic_probation_s: 2, min_healthy_s: 2, max_unhealthy_s: 5, hand_over_timeout_s: 30}
releases: {min_free_mb: 0}
windows: {forbidden: [], maintenance: []}
Y
cat >/etc/hotgo/config.yaml <<Y
data_dir: /var/lib/hotgo
trading:
  lease_ttl_ms: 3000
  accounts: [{label: one, venue: paper}, {label: two, venue: paper}, {label: three, venue: paper}]
venue: {paper: {opening: {USDT: "100000000"}}}
Y
BUILT/hotgo-deploy keygen key
BUILT/hotgo-deploy install --key key.pub
chgrp hotgo /etc/hotgo/config.yaml; chmod 640 /etc/hotgo/config.yaml
systemctl stop hotgo-monitor.timer
strip -o real BUILT/main 2>/dev/null || cp BUILT/main real
id=$(./real --version | cut -d' ' -f2)
for x in a b; do
  mkdir -p $x/manifest
  new=${id:0:6}$x$x$x$x$x$x${id:12}
  LC_ALL=C sed "s/${id//./\\.}/$new/g" real >$x/main; chmod +x $x/main
  [ "$($x/main --version)" = "main $new" ]
  echo "$new" >$x/id
  cd $x; hotgo-deploy build --binary main --key ../key >out; hotgo-deploy release $(head -1 out) >name; cd ..
  sleep 1
done
systemctl start hotgo || [ $? = 1 ]
hotgo-deploy upgrade "$(cat a/id)"
journalctl -u 'hotgo@*' --since @$(cat begin) -o cat --no-pager | sed -n 's/^admin token (shown once): //p' | tail -1 >token
make() { # name json
  curl -sS --fail-with-body --max-time 20 -H "Authorization: Bearer $(cat token)" -H 'Content-Type: application/json' -H "Idempotency-Key: make-$1" \
    localhost:8000/api/robots -d "{\"name\":\"$1\",\"symbol\":\"BTCUSDT\",\"start\":true,\"webhook\":false,$2}" >made
  sed 's/.*"robot":\([0-9]*\).*/\1/' made
}
for n in 1 2 3; do make follower-$n "\"account\":$n,\"config\":{\"kind\":\"follower\",\"default_qty\":\"0.01\"}"; echo; done >robots
make grid '"account":1,"config":{"kind":"grid","lower":"86500","upper":"87500","levels":21,"qty":"0.001"}'
"#;

/// The only site in the box, with three accounts and four robots; build `a` serves, and `b` is on the host.
pub(crate) struct Site {
    _turn: File,
    pub(crate) builds: [String; 2],
}

impl Site {
    pub(crate) fn serving() -> Self {
        let turn = turn();
        inside(&INSTALL.replace("BUILT", BUILT)).ends_with(0);
        let builds = ["a", "b"].map(|x| inside(&format!("cat /srv/t/{x}/id")).text.trim().to_owned());
        let site = Self { _turn: turn, builds };
        site.assert_serves(&site.builds[0]);
        site
    }

    pub(crate) fn status(&self) -> Value {
        let text = inside("hotgo-deploy status --json 2>/dev/null").text;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The build that trades all accounts with all robots, and is the only one.
    #[track_caller]
    pub(crate) fn settles(&self) -> String {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let status = self.status();
            let server = &status["status"];
            let engines = server["engines"].as_array().cloned().unwrap_or_default();
            let complete = engines.len() == 3 && engines.iter().all(|engine| engine["ready"] == true);
            let robots: u64 = engines.iter().filter_map(|engine| engine["robots_running"].as_u64()).sum();
            let running = status["slots"].as_array().unwrap().iter().filter(|slot| slot["state"] != "inactive").count();
            if server["accepting"] == true && complete && robots == ROBOTS && running == 1 {
                return server["build_id"].as_str().unwrap().to_owned();
            }
            assert!(Instant::now() < deadline, "no build serves alone: {status:#}\n{}", site_log());
            std::thread::park_timeout(Duration::from_millis(200));
        }
    }

    #[track_caller]
    pub(crate) fn assert_serves(&self, build: &str) {
        assert_eq!(self.settles(), build, "{:#}\n{}", self.status(), site_log());
    }

    /// The slot that serves, and the other one.
    pub(crate) fn colours(&self) -> [&'static str; 2] {
        if inside("readlink /opt/hotgo/slots/active").text.contains("blue") {
            ["blue", "green"]
        } else {
            ["green", "blue"]
        }
    }

    /// Releases a script as `main`, of a build of its own: the real program, but for `http`.
    pub(crate) fn add(&self, build: &str, http: &str) {
        let main = format!(
            "#!/bin/sh\ncase $1 in --version) echo main {build} ;; http) {http} ;; *) exec /srv/t/a/main \"$@\" ;; esac\n"
        );
        inside(&format!(
            "set -e; mkdir -p /srv/t/{build}/manifest; cd /srv/t/{build}; cat >main <<'END'\n{main}END\nchmod +x main
             hotgo-deploy build --binary main --key ../key >out; hotgo-deploy release $(head -1 out)"
        ))
        .ends_with(0);
    }
}

/// Waits inside until the run under way is at a step, and does something then.
pub(crate) fn at_step(step: &str, script: &str) -> Child {
    begin(&format!(
        "for i in $(seq 2000); do
           if grep -q '\"step\": *\"{step}\"' /var/lib/hotgo-deploy/journal.json 2>/dev/null; then {script}
             exit; fi; sleep 0.02; done; echo 'never at {step}'; exit 1"
    ))
}

/// Clients at work.
pub(crate) struct Load {
    child: Child,
}

impl Load {
    pub(crate) fn begin() -> Self {
        Self::with_sockets(SOCKETS)
    }

    pub(crate) fn with_sockets(sockets: u32) -> Self {
        inside("rm -f /srv/t/answered; touch /srv/t/load").ends_with(0);
        let child = begin(&format!(
            "exec {BUILT}/examples/clients 127.0.0.1:8000 $(cat /srv/t/token) /srv/t/answered /srv/t/load {sockets} $(cat /srv/t/robots)"
        ));
        let load = Self { child };
        load.goes_on(100);
        load
    }

    /// Until this many more signals are answered.
    #[track_caller]
    pub(crate) fn goes_on(&self, more: u32) {
        inside(&format!(
            "count() {{ cat /srv/t/answered 2>/dev/null | wc -l; }}; goal=$(($(count) + {more}))
             for i in $(seq 600); do [ $(count) -ge $goal ] && exit 0; sleep 0.1; done; exit 1"
        ))
        .ends_with(0);
    }

    /// What they have seen, after an audit of everything that was answered.
    #[track_caller]
    pub(crate) fn ends(self) -> Value {
        inside("rm /srv/t/load").ends_with(0);
        let run = end(self.child);
        let last = run.text.lines().find(|line| line.starts_with('{'));
        let seen: Value =
            last.and_then(|line| serde_json::from_str(line).ok()).unwrap_or_else(|| panic!("{}", run.text));
        eprintln!("{seen}");
        assert_eq!(seen["gaps"], 0, "{seen:#}");
        audit();
        seen
    }

    /// The machine under them has gone.
    pub(crate) fn breaks_off(self) {
        let _errors = end(self.child);
    }

    #[track_caller]
    pub(crate) fn nobody_has_noticed(self) -> Value {
        let seen = self.ends();
        assert_eq!(seen["failed"], 0, "{seen:#}\n{}", site_log());
        let closes = seen["closes"].as_object().unwrap();
        assert!(closes.keys().all(|code| code == "1012") && seen["again"] == 0, "{seen:#}");
        seen
    }
}

/// Every signal that was answered has come to its end, once.
#[track_caller]
pub(crate) fn audit() {
    inside(
        "cd /var/lib/hotgo; export HOTGO_CONFIG=/etc/hotgo
         exec setpriv --reuid hotgo --regid hotgo --init-groups /srv/t/a/main audit --answered /srv/t/answered --settle 30",
    )
    .ends_with(0)
    .says("lost 0, doubled 0");
}

/// A request that is begun now, and ended when there is the file `/srv/t/send`: its answer is what the script prints.
pub(crate) fn half_a_request() -> Child {
    inside("rm -f /srv/t/send").ends_with(0);
    begin(
        r#"body="{\"robot\":$(head -1 /srv/t/robots),\"action\":\"buy\",\"qty\":\"0.001\",\"order\":{\"type\":\"market\"}}"
        exec 3<>/dev/tcp/127.0.0.1/8000
        printf 'POST /api/signals HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nIdempotency-Key: half\r\nContent-Type: application/json\r\nContent-Length: %s\r\n\r\n%s' \
          "$(cat /srv/t/token)" ${#body} "${body:0:10}" >&3
        for i in $(seq 1200); do [ -e /srv/t/send ] && break; sleep 0.05; done
        printf %s "${body:10}" >&3
        timeout 30 cat <&3"#,
    )
}

/// What a process has open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) files: usize,
    pub(crate) listeners: usize,
}

impl Held {
    #[track_caller]
    pub(crate) fn by(pid: &Value) -> Self {
        let count = |script: String| inside(&script).text.trim().parse().unwrap_or_default();
        let files = count(format!("ls /proc/{pid}/fd | wc -l"));
        let listeners = count(format!("ss -Hltnp | grep -c 'pid={pid},'"));
        assert!(files > 0 && listeners > 0, "process {pid}: {files} files, {listeners} listeners");
        Self { files, listeners }
    }
}

pub(crate) fn tool(arguments: &str) -> Run {
    inside(&format!("hotgo-deploy {arguments}"))
}

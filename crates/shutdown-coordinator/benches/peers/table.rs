//! The table that is printed.

use serde::Serialize;

/// Names that targets refer to.
pub(crate) const TRACKER: &str = "TaskTracker";
pub(crate) const SUBSYSTEMS: &str = "tokio-graceful-shutdown";

/// Ratios swing by this much from run to run, so no target is missed by less.
const NOISE: f64 = 0.05;

pub(crate) struct Table {
    json: bool,
    groups: Vec<Group>,
}

/// One subject, and what each contestant reached.
#[derive(Serialize)]
pub(crate) struct Group {
    title: String,
    unit: &'static str,
    /// The contestant that the ratios are of.
    baseline: Option<&'static str>,
    lines: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    name: &'static str,
    value: f64,
    ratio: Option<f64>,
    targets: Vec<Target>,
    note: &'static str,
}

#[derive(Serialize)]
struct Target {
    at_most: f64,
    of: &'static str,
    ratio: f64,
    verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Met,
    /// Above, but within the noise.
    Level,
    Missed,
}

impl Group {
    pub(crate) fn new(title: impl Into<String>, unit: &'static str, values: Vec<(&'static str, f64)>) -> Self {
        let line = |(name, value)| Line { name, value, ratio: None, targets: Vec::new(), note: "" };
        Self { title: title.into(), unit, baseline: None, lines: values.into_iter().map(line).collect() }
    }

    fn value(&self, name: &str) -> Option<f64> {
        self.lines.iter().find(|line| line.name == name).map(|line| line.value)
    }

    /// Gives every line its ratio of this one.
    pub(crate) fn against(mut self, baseline: &'static str) -> Self {
        let value = self.value(baseline);
        self.baseline = Some(baseline);
        for line in &mut self.lines {
            line.ratio = value.map(|value| line.value / value);
        }
        self
    }

    /// A contestant should need at most this much of what another one needs. Nothing, when one of them is not there.
    pub(crate) fn target(mut self, name: &str, at_most: f64, of: &'static str) -> Self {
        let other = self.value(of);
        if let (Some(line), Some(other)) = (self.lines.iter_mut().find(|line| line.name == name), other) {
            let ratio = line.value / other;
            let verdict = match ratio / at_most {
                above if above <= 1.0 => Verdict::Met,
                above if above <= 1.0 + NOISE => Verdict::Level,
                _ => Verdict::Missed,
            };
            line.targets.push(Target { at_most, of, ratio, verdict });
        }
        self
    }

    pub(crate) fn note(mut self, name: &str, note: &'static str) -> Self {
        if let Some(line) = self.lines.iter_mut().find(|line| line.name == name) {
            line.note = note;
        }
        self
    }

    fn print(&self) {
        let unit = format!("{:>12}", self.unit);
        println!("\n{:<52}{unit} {:>7}  target", self.title, if self.baseline.is_some() { "ratio" } else { "" });
        for line in &self.lines {
            let ratio = line.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            let targets: Vec<String> = line.targets.iter().map(Target::text).collect();
            let remarks = [targets.join("; "), line.note.to_owned()].into_iter().filter(|text| !text.is_empty());
            let remarks = remarks.collect::<Vec<_>>().join("; ");
            println!("  {:<50}{:>12} {ratio:>7}  {remarks}", line.name, number(line.value));
        }
    }
}

impl Target {
    fn text(&self) -> String {
        let Self { at_most, of, ratio, verdict } = self;
        let above = (ratio / at_most - 1.0) * 100.0;
        match verdict {
            Verdict::Met => format!("met: {ratio:.2} <= {at_most} of {of}"),
            Verdict::Level => format!("level: {ratio:.2} for {at_most} of {of}"),
            Verdict::Missed => format!("MISSED by {above:.0} %: {ratio:.2} > {at_most} of {of}"),
        }
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        middle if middle >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

impl Table {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, groups: Vec::new() }
    }

    /// Something for people to read.
    pub(crate) fn say(&self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }

    /// Adds a group and shows it at once.
    pub(crate) fn add(&mut self, group: Group) {
        if !self.json {
            group.print();
        }
        self.groups.push(group);
    }

    pub(crate) fn finish(self) {
        if self.json {
            println!("{}", serde_json::to_string_pretty(&self.groups).unwrap());
            return;
        }
        let targets = || self.groups.iter().flat_map(|group| &group.lines).flat_map(|line| &line.targets);
        let count = |verdict| targets().filter(|target| target.verdict == verdict).count();
        let (met, level, missed) = (count(Verdict::Met), count(Verdict::Level), count(Verdict::Missed));
        println!("\ntargets: {met} met, {level} level within the noise, {missed} missed");
    }
}

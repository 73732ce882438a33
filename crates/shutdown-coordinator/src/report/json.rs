//! The report as JSON. `docs/report.md` is its documentation, and a test holds the two together.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeStruct as _};

use super::Report;

/// Raised when a field goes or changes its meaning. New fields do not raise it.
const VERSION: u32 = 1;

/// Stands for the version this crate writes, and is read from that version only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version;

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            VERSION => Ok(Self),
            other => Err(de::Error::custom(format_args!(
                "this is version {other} of the shutdown report, and only version {VERSION} can be read"
            ))),
        }
    }
}

/// What follows from the report, such as its exit code, is written too, and is not read.
impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut report = serializer.serialize_struct("Report", 11)?;
        report.serialize_field("version", &VERSION)?;
        report.serialize_field("exit_code", &self.exit_code())?;
        report.serialize_field("clean", &self.is_clean())?;
        report.serialize_field("reason", &self.reason)?;
        report.serialize_field("forced_by", &self.forced_by)?;
        report.serialize_field("forced_after_ms", &self.forced_after.as_ref().map(ms::of))?;
        report.serialize_field("started_unix_ms", &self.started_unix_ms)?;
        report.serialize_field("deadline_ms", &ms::of(&self.deadline))?;
        report.serialize_field("took_ms", &ms::of(&self.took))?;
        report.serialize_field("phases", &self.phases)?;
        report.serialize_field("notes", &self.notes)?;
        report.end()
    }
}

/// Durations as whole milliseconds.
pub(crate) mod ms {
    use super::{Deserialize as _, Deserializer, Serialize as _, Serializer};
    use std::time::Duration;

    pub(crate) fn of(time: &Duration) -> u64 {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        of(time).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// Durations that may be missing, as whole milliseconds or null.
pub(crate) mod optional_ms {
    use super::{Deserialize as _, Deserializer, Serialize as _, Serializer, ms};
    use std::time::Duration;

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub(crate) fn serialize<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        time.as_ref().map(ms::of).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}

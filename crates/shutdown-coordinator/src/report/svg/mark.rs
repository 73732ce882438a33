//! How it ended, as a shape: colour alone would leave some readers out.

use super::canvas::{Canvas, px};
use crate::{record::Outcome, report::PhaseStatus};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    Completed,
    Ok,
    TimedOut,
    Failed,
    Panicked,
    Leaked,
    Forced,
    Skipped,
    Cancelled,
}

impl From<&Outcome> for Mark {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Ok => Self::Ok,
            Outcome::Failed { .. } => Self::Failed,
            Outcome::Panicked { .. } => Self::Panicked,
            Outcome::TimedOut { .. } => Self::TimedOut,
            Outcome::Leaked => Self::Leaked,
            Outcome::Skipped => Self::Skipped,
            Outcome::Cancelled => Self::Cancelled,
        }
    }
}

impl From<PhaseStatus> for Mark {
    fn from(status: PhaseStatus) -> Self {
        match status {
            PhaseStatus::Completed => Self::Completed,
            PhaseStatus::TimedOut => Self::TimedOut,
            PhaseStatus::Forced => Self::Forced,
            PhaseStatus::Skipped => Self::Skipped,
        }
    }
}

impl Mark {
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Completed => "sc-completed",
            Self::Ok => "sc-ok",
            Self::TimedOut => "sc-timed-out",
            Self::Failed => "sc-failed",
            Self::Panicked => "sc-panicked",
            Self::Leaked => "sc-leaked",
            Self::Forced => "sc-forced",
            Self::Skipped => "sc-skipped",
            Self::Cancelled => "sc-cancelled",
        }
    }

    /// For the legend.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Completed => "phase completed",
            Self::Ok => "ok",
            Self::TimedOut => "timed out",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::Leaked => "leaked",
            Self::Forced => "forced",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }

    /// Around a centre.
    pub(super) fn draw(self, canvas: &mut Canvas, (x, y): (i64, i64)) {
        let r = px(4);
        let class = self.class();
        let (stroke, hollow) = (format!("{class} sc-stroke"), format!("{class} sc-hollow"));
        match self {
            Self::Completed => canvas.rect(class, (x - r, y - r), (2 * r, 2 * r)),
            Self::Ok => canvas.circle(class, (x, y), r),
            Self::TimedOut => canvas.polygon(class, &[(x - r, y - r), (x + r, y - r), (x - r, y + r), (x + r, y + r)]),
            Self::Failed => {
                canvas.line(&stroke, (x - r, y - r), (x + r, y + r));
                canvas.line(&stroke, (x - r, y + r), (x + r, y - r));
            }
            Self::Panicked => canvas.polygon(class, &[(x, y - r), (x + r, y + r), (x - r, y + r)]),
            Self::Leaked => canvas.polygon(class, &[(x - r, y - r), (x + r, y), (x - r, y + r)]),
            Self::Forced => {
                canvas.polyline(&stroke, &[(x - r, y - r), (x, y), (x - r, y + r)]);
                canvas.polyline(&stroke, &[(x, y - r), (x + r, y), (x, y + r)]);
            }
            Self::Skipped => canvas.circle(&hollow, (x, y), r),
            Self::Cancelled => canvas.rect(&hollow, (x - r, y - r), (2 * r, 2 * r)),
        }
    }
}

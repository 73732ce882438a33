//! What befalls one request on its way to the venue and back.

use std::time::Duration;

use axum::http::StatusCode;

use super::error::{ApiError, server_error};
use crate::faults::{Injector, Request};

#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fault of its own, and they combine")]
pub(super) struct Plan {
    /// It never arrives.
    pub(super) lost: bool,
    /// It arrives this late.
    pub(super) late: Option<Duration>,
    /// It is refused as one too many: status, and seconds to wait.
    pub(super) limit: Option<(u16, u32)>,
    /// It is answered with this status, and whether it does what it asks for.
    pub(super) error: Option<(u16, bool)>,
    pub(super) answer_lost: bool,
    pub(super) answer_late: Option<Duration>,
    pub(super) answer_held: bool,
    pub(super) answer_cut: bool,
}

impl Plan {
    pub(super) fn of(injector: &mut Injector, request: Request) -> Self {
        if injector.drops_request(request) {
            return Self { lost: true, ..Self::default() };
        }
        Self {
            lost: false,
            late: injector.delays_processing(request),
            limit: injector.limits(request),
            error: injector.errs(request),
            answer_lost: injector.drops_answer(request),
            answer_late: injector.delays_answer(request),
            answer_held: injector.holds_answer(request),
            answer_cut: injector.cuts_body(request),
        }
    }

    /// Refuses the request if a fault demands it.
    pub(super) fn forced(&self) -> Result<(), ApiError> {
        match (self.limit, self.error) {
            (Some((418, retry_after)), _) => {
                let msg = "Way too much request weight used; IP banned.";
                Err(ApiError::too_many(StatusCode::IM_A_TEAPOT, msg, retry_after))
            }
            (Some((_, retry_after)), _) => {
                Err(ApiError::too_many(StatusCode::TOO_MANY_REQUESTS, "Too many requests queued.", retry_after))
            }
            (None, Some((status, false))) => Err(server_error(status)),
            (None, _) => Ok(()),
        }
    }

    /// The names of the faults.
    pub(super) fn names(&self) -> Vec<&'static str> {
        let faults = [
            ("drop_requests", self.lost),
            ("delay_processing", self.late.is_some()),
            ("limit", self.limit.is_some()),
            ("server_error", self.error.is_some()),
            ("drop_answers", self.answer_lost),
            ("delay_answers", self.answer_late.is_some()),
            ("hold_answers", self.answer_held),
            ("cut_body", self.answer_cut),
        ];
        faults.into_iter().filter_map(|(name, hits)| hits.then_some(name)).collect()
    }
}

//! What an error of the venue means for the one POST, for a cancel and for a query. One table, by the venue's `errors.md`.
//!
//! The rule for a POST: refused is only what is documented to have been turned away before or by the matching engine. A
//! server error, a code that is not documented, or an answer that cannot be read leave the outcome unknown.

use trading::exchange::{CancelResult, QueryResult, SendResult};

/// Why a request has no good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It certainly did not leave: no connection, no budget.
    NotSent(String),
    /// The venue answered with an error.
    Error {
        /// HTTP status, 400 and above.
        status: u16,
        /// The venue's code; `None` if the answer holds none.
        code: Option<i32>,
        /// In the venue's words.
        message: String,
    },
    /// It may have arrived: no answer, or one that cannot be read.
    Lost(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSent(reason) | Self::Lost(reason) => f.write_str(reason),
            Self::Error { status, code: Some(code), message } => write!(f, "{message} ({code}, HTTP {status})"),
            Self::Error { status, code: None, message } => write!(f, "{message} (HTTP {status})"),
        }
    }
}

/// What a code means for a POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The venue does not have the order and never will.
    Definitive,
    /// Nobody knows.
    Unknown,
    /// The message decides: see [`rejected_by_engine`].
    ByMessage,
}

use Verdict::{ByMessage, Definitive, Unknown};

/// Every code of `errors.md`. Codes that no order request can bring about (FIX sessions, listings, streams) are not trusted
/// to mean anything when one does.
const CODES: &[(i32, Verdict)] = &[
    (-1000, Unknown),    // UNKNOWN
    (-1001, Unknown),    // DISCONNECTED
    (-1002, Definitive), // UNAUTHORIZED
    (-1003, Definitive), // TOO_MANY_REQUESTS
    (-1006, Unknown),    // UNEXPECTED_RESP: "execution status unknown"
    (-1007, Unknown),    // TIMEOUT: "execution status unknown"
    (-1008, Unknown),    // SERVER_BUSY
    (-1010, ByMessage),  // ERROR_MSG_RECEIVED
    (-1013, Definitive), // INVALID_MESSAGE: "did not reach the matching engine"
    (-1014, Definitive), // UNKNOWN_ORDER_COMPOSITION
    (-1015, Definitive), // TOO_MANY_ORDERS
    (-1016, Unknown),    // SERVICE_SHUTTING_DOWN
    (-1020, Definitive), // UNSUPPORTED_OPERATION
    (-1021, Definitive), // INVALID_TIMESTAMP
    (-1022, Definitive), // INVALID_SIGNATURE
    (-1033, Unknown),    // COMP_ID_IN_USE (FIX)
    (-1034, Unknown),    // TOO_MANY_CONNECTIONS
    (-1035, Unknown),    // LOGGED_OUT (FIX)
    (-1100, Definitive), // ILLEGAL_CHARS
    (-1101, Definitive), // TOO_MANY_PARAMETERS
    (-1102, Definitive), // MANDATORY_PARAM_EMPTY_OR_MALFORMED
    (-1103, Definitive), // UNKNOWN_PARAM
    (-1104, Definitive), // UNREAD_PARAMETERS
    (-1105, Definitive), // PARAM_EMPTY
    (-1106, Definitive), // PARAM_NOT_REQUIRED
    (-1108, Definitive), // PARAM_OVERFLOW
    (-1111, Definitive), // BAD_PRECISION
    (-1112, Definitive), // NO_DEPTH
    (-1114, Definitive), // TIF_NOT_REQUIRED
    (-1115, Definitive), // INVALID_TIF
    (-1116, Definitive), // INVALID_ORDER_TYPE
    (-1117, Definitive), // INVALID_SIDE
    (-1118, Definitive), // EMPTY_NEW_CL_ORD_ID
    (-1119, Definitive), // EMPTY_ORG_CL_ORD_ID
    (-1120, Unknown),    // BAD_INTERVAL (market data)
    (-1121, Definitive), // BAD_SYMBOL
    (-1122, Definitive), // INVALID_SYMBOLSTATUS
    (-1125, Unknown),    // INVALID_LISTEN_KEY (streams)
    (-1127, Unknown),    // MORE_THAN_XX_HOURS (reads)
    (-1128, Definitive), // OPTIONAL_PARAMS_BAD_COMBO
    (-1130, Definitive), // INVALID_PARAMETER
    (-1134, Definitive), // BAD_STRATEGY_TYPE
    (-1135, Definitive), // INVALID_JSON
    (-1139, Unknown),    // INVALID_TICKER_TYPE (market data)
    (-1145, Unknown),    // INVALID_CANCEL_RESTRICTIONS (cancels)
    (-1151, Unknown),    // DUPLICATE_SYMBOLS (reads)
    (-1152, Unknown),    // INVALID_SBE_HEADER
    (-1153, Unknown),    // UNSUPPORTED_SCHEMA_ID
    (-1155, Unknown),    // SBE_DISABLED
    (-1158, Unknown),    // OCO_ORDER_TYPE_REJECTED (order lists, as the next ones)
    (-1160, Unknown),    // OCO_ICEBERGQTY_TIMEINFORCE
    (-1161, Unknown),    // DEPRECATED_SCHEMA: the answer could not be encoded
    (-1165, Unknown),    // BUY_OCO_LIMIT_MUST_BE_BELOW
    (-1166, Unknown),    // SELL_OCO_LIMIT_MUST_BE_ABOVE
    (-1168, Unknown),    // BOTH_OCO_ORDERS_CANNOT_BE_LIMIT
    (-1169, Unknown),    // INVALID_TAG_NUMBER (FIX, as the next ones)
    (-1170, Unknown),    // TAG_NOT_DEFINED_IN_MESSAGE
    (-1171, Unknown),    // TAG_APPEARS_MORE_THAN_ONCE
    (-1172, Unknown),    // TAG_OUT_OF_ORDER
    (-1173, Unknown),    // GROUP_FIELDS_OUT_OF_ORDER
    (-1174, Unknown),    // INVALID_COMPONENT
    (-1175, Unknown),    // RESET_SEQ_NUM_SUPPORT
    (-1176, Unknown),    // ALREADY_LOGGED_IN
    (-1177, Unknown),    // GARBLED_MESSAGE
    (-1178, Unknown),    // BAD_SENDER_COMPID
    (-1179, Unknown),    // BAD_SEQ_NUM
    (-1180, Unknown),    // EXPECTED_LOGON
    (-1181, Unknown),    // TOO_MANY_MESSAGES
    (-1182, Unknown),    // PARAMS_BAD_COMBO
    (-1183, Unknown),    // NOT_ALLOWED_IN_DROP_COPY_SESSIONS
    (-1184, Unknown),    // DROP_COPY_SESSION_NOT_ALLOWED
    (-1185, Unknown),    // DROP_COPY_SESSION_REQUIRED
    (-1186, Unknown),    // NOT_ALLOWED_IN_ORDER_ENTRY_SESSIONS
    (-1187, Unknown),    // NOT_ALLOWED_IN_MARKET_DATA_SESSIONS
    (-1188, Unknown),    // INCORRECT_NUM_IN_GROUP_COUNT
    (-1189, Unknown),    // DUPLICATE_ENTRIES_IN_A_GROUP
    (-1190, Unknown),    // INVALID_REQUEST_ID
    (-1191, Unknown),    // TOO_MANY_SUBSCRIPTIONS
    (-1194, Unknown),    // INVALID_TIME_UNIT
    (-1196, Unknown),    // BUY_OCO_STOP_LOSS_MUST_BE_ABOVE (order lists, as the next ones)
    (-1197, Unknown),    // SELL_OCO_STOP_LOSS_MUST_BE_BELOW
    (-1198, Unknown),    // BUY_OCO_TAKE_PROFIT_MUST_BE_BELOW
    (-1199, Unknown),    // SELL_OCO_TAKE_PROFIT_MUST_BE_ABOVE
    (-1210, Unknown),    // INVALID_PEG_PRICE_TYPE (never sent)
    (-1211, Unknown),    // INVALID_PEG_OFFSET_TYPE (never sent)
    (-1220, Definitive), // SYMBOL_DOES_NOT_MATCH_STATUS
    (-1221, Unknown),    // INVALID_SBE_MESSAGE_FIELD
    (-1222, Unknown),    // OPO_WORKING_MUST_BE_BUY (order lists, as the next ones)
    (-1223, Unknown),    // OPO_PENDING_MUST_BE_SELL
    (-1224, Unknown),    // WORKING_PARAM_REQUIRED
    (-1225, Unknown),    // PENDING_PARAM_NOT_REQUIRED
    (-2010, ByMessage),  // NEW_ORDER_REJECTED
    (-2011, Unknown),    // CANCEL_REJECTED (cancels)
    (-2013, Unknown),    // NO_SUCH_ORDER (queries)
    (-2014, Definitive), // BAD_API_KEY_FMT
    (-2015, Definitive), // REJECTED_MBX_KEY
    (-2016, Unknown),    // NO_TRADING_WINDOW (market data)
    (-2021, Unknown),    // cancel-replace partially failed (never sent)
    (-2022, Unknown),    // cancel-replace failed (never sent)
    (-2026, Unknown),    // ORDER_ARCHIVED (queries)
    (-2035, Unknown),    // SUBSCRIPTION_ACTIVE (streams, as the next one)
    (-2036, Unknown),    // SUBSCRIPTION_INACTIVE
    (-2038, Unknown),    // ORDER_AMEND_REJECTED (never sent)
    (-2039, Unknown),    // CLIENT_ORDER_ID_INVALID (queries)
    (-2042, Unknown),    // MAXIMUM_SUBSCRIPTION_IDS
    (-2043, Unknown),    // NO_REFERENCE_PRICE (market data)
];

const DUPLICATE: &str = "Duplicate order sent";

/// Messages with which the matching engine rejects an order for good, for the code that says no more than "an error".
const ENGINE_REJECTS: &[&str] = &[
    "Market is closed",
    "Account has insufficient balance for requested action",
    "Market orders are not supported for this symbol",
    "Stop loss orders are not supported for this symbol",
    "Stop loss limit orders are not supported for this symbol",
    "Price * QTY is zero or less",
    "This action is disabled on this account",
    "This account may not place or cancel orders",
    "Unsupported order combination",
    "Order would trigger immediately",
    "Order would immediately match and take",
    "This symbol is not permitted for this account",
    "This symbol is restricted for this account",
    "Rest API trading is not enabled",
    "Filter failure",
];

/// Messages of a refused cancel that are about the account and not about the order.
const MAY_NOT_CANCEL: &[&str] =
    &["This action is disabled on this account", "This account may not place or cancel orders"];

/// Whether the order was rejected for good. A duplicate was not: an order of this id is there.
fn rejected_by_engine(code: i32, message: &str) -> bool {
    let duplicate = message.contains(DUPLICATE);
    !duplicate && (code == -2010 || ENGINE_REJECTS.iter().any(|known| message.starts_with(known)))
}

fn is_definitive(status: u16, code: Option<i32>, message: &str) -> bool {
    if !(400..500).contains(&status) {
        return false;
    }
    let verdict = code.map_or(Unknown, |code| {
        CODES.iter().find(|(known, _)| *known == code).map_or(Unknown, |(_, verdict)| *verdict)
    });
    match verdict {
        Definitive => true,
        ByMessage => rejected_by_engine(code.unwrap_or_default(), message),
        // Turned away at the door, whatever the body says; yet a code that stands for an unknown outcome counts more.
        Unknown => code.is_none() && matches!(status, 418 | 429),
    }
}

/// What became of the one POST.
pub(super) fn post(failure: Failure) -> SendResult {
    match failure {
        Failure::NotSent(reason) => SendResult::NotSent { reason },
        Failure::Lost(reason) => SendResult::Unknown { reason },
        Failure::Error { status, code, message } if is_definitive(status, code, &message) => {
            SendResult::Refused { code: code.unwrap_or_default(), reason: message }
        }
        error @ Failure::Error { .. } => SendResult::Unknown { reason: error.to_string() },
    }
}

/// What became of a cancel. One that was turned away for a passing reason (no budget, a clock that is off) counts as unknown,
/// so that it is asked for again.
pub(super) fn cancel(failure: Failure) -> CancelResult {
    match failure {
        Failure::Error { status: 400..500, code: Some(-2011), message }
            if !MAY_NOT_CANCEL.iter().any(|known| message.starts_with(known)) =>
        {
            CancelResult::UnknownOrder
        }
        Failure::Error { status: 400..500, code: Some(-2011), message } => CancelResult::Refused { reason: message },
        Failure::Error { status, code, ref message }
            if is_definitive(status, code, message)
                && !matches!(status, 418 | 429)
                && !matches!(code, Some(-1003 | -1015 | -1021)) =>
        {
            CancelResult::Refused { reason: failure.to_string() }
        }
        failure => CancelResult::Unknown { reason: failure.to_string() },
    }
}

/// What became of a query by our id. Only "Order does not exist" says that there is none.
pub(super) fn query(failure: &Failure) -> QueryResult {
    match failure {
        Failure::Error { status: 400..500, code: Some(-2013), .. } => QueryResult::NotFound { thorough: false },
        failure => QueryResult::Failed { reason: failure.to_string() },
    }
}

#[cfg(test)]
mod tests;

use super::*;

fn error(status: u16, code: i32, message: &str) -> Failure {
    Failure::Error { status, code: Some(code), message: message.to_owned() }
}

fn is_refused(result: &SendResult) -> bool {
    matches!(result, SendResult::Refused { .. })
}

fn is_unknown(result: &SendResult) -> bool {
    matches!(result, SendResult::Unknown { .. })
}

/// All codes of `errors.md` (as of 2026-07), each with whether a POST that got it is certainly not at the venue. -1010 and
/// -2010 are judged by their message, below.
const DOCUMENTED: &[(&[i32], bool)] = &[
    (&[-1002, -1003, -1013, -1014, -1015, -1020, -1021, -1022], true),
    (&[-1000, -1001, -1006, -1007, -1008, -1016, -1033, -1034, -1035], false),
    (&[-1100, -1101, -1102, -1103, -1104, -1105, -1106, -1108, -1111, -1112, -1114, -1115, -1116, -1117], true),
    (&[-1118, -1119, -1121, -1122, -1128, -1130, -1134, -1135, -1220], true),
    (&[-1120, -1125, -1127, -1139, -1145, -1151, -1152, -1153, -1155, -1158, -1160, -1161, -1165, -1166, -1168], false),
    (&[-1169, -1170, -1171, -1172, -1173, -1174, -1175, -1176, -1177, -1178, -1179, -1180, -1181, -1182, -1183], false),
    (&[-1184, -1185, -1186, -1187, -1188, -1189, -1190, -1191, -1194, -1196, -1197, -1198, -1199, -1210, -1211], false),
    (&[-1221, -1222, -1223, -1224, -1225], false),
    (&[-2014, -2015], true),
    (&[-2011, -2013, -2016, -2021, -2022, -2026, -2035, -2036, -2038, -2039, -2042, -2043], false),
];

#[test]
fn every_documented_code_is_classified_for_a_post_and_no_other_is_in_the_table() {
    let mut documented = vec![-1010, -2010];
    for (codes, definitive) in DOCUMENTED {
        for code in *codes {
            documented.push(*code);
            let result = post(error(400, *code, "in words"));
            assert_eq!(is_refused(&result), *definitive, "{code}: {result:?}");
            assert_eq!(is_unknown(&result), !*definitive, "{code}: {result:?}");
        }
    }
    let mut listed: Vec<i32> = CODES.iter().map(|(code, _)| *code).collect();
    let unsorted = listed.clone();
    listed.sort_by_key(|code| -code);
    assert_eq!(listed, unsorted, "in the order of the document");
    documented.sort_by_key(|code| -code);
    assert_eq!(listed, documented);
}

#[test]
fn a_server_error_is_unknown_whatever_its_code_says() {
    for (code, _) in CODES {
        for status in [500, 502, 503, 504, 599] {
            assert!(is_unknown(&post(error(status, *code, "Filter failure: LOT_SIZE"))), "{status} {code}");
        }
    }
    assert!(is_unknown(&post(Failure::Error { status: 502, code: None, message: String::new() })));
}

#[test]
fn a_code_that_is_not_documented_is_unknown() {
    for code in [-1, 0, 1, -1004, -1099, -2012, -2018, -9999, i32::MIN] {
        for status in [400, 403, 409, 418, 429] {
            assert!(is_unknown(&post(error(status, code, "?"))), "{status} {code}");
        }
    }
}

#[test]
fn too_many_requests_were_turned_away_with_or_without_words() {
    for status in [418, 429] {
        assert!(is_refused(&post(Failure::Error { status, code: None, message: String::new() })));
        assert!(is_refused(&post(error(status, -1003, "Too many requests"))));
        assert!(is_refused(&post(error(status, -1015, "Too many new orders"))));
    }
    for status in [400, 401, 403, 404, 413] {
        assert!(is_unknown(&post(Failure::Error { status, code: None, message: String::new() })), "{status}");
    }
}

#[test]
fn a_rejected_order_is_refused_and_a_duplicate_is_asked_for() {
    for message in [
        "Account has insufficient balance for requested action.",
        "Order would immediately match and take.",
        "Market is closed.",
        "Rest API trading is not enabled.",
        "A message of next year.",
    ] {
        assert!(is_refused(&post(error(400, -2010, message))), "{message}");
    }
    assert!(is_refused(&post(error(400, -1010, "Account has insufficient balance for requested action."))));
    assert!(is_unknown(&post(error(400, -1010, "A message of next year."))));
    for code in [-2010, -1010] {
        assert!(is_unknown(&post(error(400, code, "Duplicate order sent."))), "{code}");
    }
}

#[test]
fn what_did_not_leave_was_not_sent_and_what_got_lost_is_unknown() {
    assert_eq!(post(Failure::NotSent("x".into())), SendResult::NotSent { reason: "x".into() });
    assert_eq!(post(Failure::Lost("x".into())), SendResult::Unknown { reason: "x".into() });
}

#[test]
fn a_cancel_of_an_unknown_order_is_no_cancellation() {
    assert_eq!(cancel(error(400, -2011, "Unknown order sent.")), CancelResult::UnknownOrder);
    assert_eq!(cancel(error(400, -2011, "CANCEL_REJECTED")), CancelResult::UnknownOrder);
    let forbidden = cancel(error(400, -2011, "This account may not place or cancel orders."));
    assert!(matches!(forbidden, CancelResult::Refused { .. }));
    for code in [-1022, -1100, -1121, -2014, -2015] {
        assert!(matches!(cancel(error(400, code, "")), CancelResult::Refused { .. }), "{code}");
    }
}

#[test]
fn a_cancel_that_was_turned_away_for_now_is_asked_for_again() {
    for (status, code) in
        [(429, -1003), (418, -1003), (400, -1003), (400, -1015), (400, -1021), (400, -1008), (503, -2011)]
    {
        assert!(matches!(cancel(error(status, code, "")), CancelResult::Unknown { .. }), "{status} {code}");
    }
    assert!(matches!(cancel(Failure::Lost(String::new())), CancelResult::Unknown { .. }));
    assert!(matches!(cancel(Failure::NotSent(String::new())), CancelResult::Unknown { .. }));
}

#[test]
fn only_the_venues_own_word_says_that_there_is_no_order() {
    assert_eq!(query(&error(400, -2013, "Order does not exist.")), QueryResult::NotFound { thorough: false });
    for (status, code) in [(500, -2013), (400, -2011), (400, -2026), (400, -1121), (404, -1), (429, -1003)] {
        assert!(matches!(query(&error(status, code, "")), QueryResult::Failed { .. }), "{status} {code}");
    }
    assert!(matches!(query(&Failure::Lost(String::new())), QueryResult::Failed { .. }));
}

//! What was decided, as the protocol writes it.

use serde::Serialize;
use serde_json::Value;

use super::INACTIVITY;
use crate::flags::snapshot::Decider;
use crate::flags::{Etag, Evaluation, FlagReason};

/// The code of a flag that counts users where nobody is named.
pub(super) const TARGETING_KEY_MISSING: &str = "TARGETING_KEY_MISSING";
/// Its text.
pub(super) const KEY_IS_MISSING: &str = "This flag counts users: send `context.targetingKey`.";

/// `evaluationSuccess` of the protocol. Without a value it is a `codeDefaultFlag`.
#[derive(Serialize)]
struct Success<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a Value>,
    variant: &'a str,
    reason: &'static str,
    metadata: Metadata,
}

/// `evaluationFailure`.
#[derive(Serialize)]
struct Failed<'a> {
    key: &'a str,
    #[serde(rename = "errorCode")]
    error_code: &'static str,
    #[serde(rename = "errorDetails")]
    error_details: &'static str,
}

#[derive(Serialize)]
struct Metadata {
    #[serde(rename = "reasonDetail")]
    reason_detail: &'static str,
}

/// The reason in the protocol's words, and in ours.
fn reason(evaluation: &Evaluation<'_>) -> (&'static str, &'static str) {
    let (standard, ours) = match evaluation.reason {
        FlagReason::KillSwitch => ("DISABLED", "KILL_SWITCH"),
        FlagReason::Schedule => ("DISABLED", "SCHEDULE"),
        FlagReason::Plan => ("TARGETING_MATCH", "PLAN"),
        FlagReason::Override => ("TARGETING_MATCH", "OVERRIDE"),
        FlagReason::Rollout => ("SPLIT", "ROLLOUT"),
        FlagReason::Default => ("STATIC", "DEFAULT"),
    };
    (if evaluation.is_split { "SPLIT" } else { standard }, ours)
}

/// Writes one flag.
pub(super) fn write(text: &mut Vec<u8>, key: &str, evaluation: &Evaluation<'_>) -> serde_json::Result<()> {
    let (reason, reason_detail) = reason(evaluation);
    let value = Some(evaluation.value.as_ref()).filter(|value| !value.is_null());
    let success = Success { key, value, variant: evaluation.variant, reason, metadata: Metadata { reason_detail } };
    serde_json::to_writer(text, &success)
}

/// Writes every flag, where its changes are told of, and which configuration it was.
pub(super) fn write_all(
    text: &mut Vec<u8>,
    decider: &Decider<'_>,
    ticket: &str,
    config: Etag,
) -> serde_json::Result<()> {
    text.extend(b"{\"flags\":[");
    for (place, definition) in decider.definitions().iter().enumerate() {
        if place > 0 {
            text.push(b',');
        }
        if let Ok(evaluation) = decider.decide(definition) {
            write(text, &definition.key, &evaluation)?;
        } else {
            let (key, error_code, error_details) = (&definition.key, TARGETING_KEY_MISSING, KEY_IS_MISSING);
            serde_json::to_writer(&mut *text, &Failed { key, error_code, error_details })?;
        }
    }
    // Without an origin: the client has reached us at one, which may be a proxy's.
    let rest = format!(
        "],\"eventStreams\":[{{\"type\":\"sse\",\"endpoint\":{{\"requestUri\":\"/ofrep/v1/stream?ticket={ticket}\"}},\"inactivityDelaySec\":{INACTIVITY}}}],\"metadata\":{{\"flagConfigEtag\":\"{config}\"}}}}"
    );
    text.extend(rest.bytes());
    Ok(())
}

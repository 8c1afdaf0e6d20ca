//! Conditions in a status, as Kubernetes has them.

use serde_json::{Value, json};

/// One thing that is so or not.
pub struct Condition<'a> {
    pub kind: &'a str,
    pub holds: bool,
    /// A word in camel case.
    pub reason: &'a str,
    pub message: String,
}

/// The conditions, each with the time since when it is as it is: that of `before` where it is no other.
pub fn conditions(all: &[Condition<'_>], before: &Value, generation: i64, now: &str) -> Value {
    let one = |condition: &Condition<'_>| {
        let status = if condition.holds { "True" } else { "False" };
        let old = before.as_array().into_iter().flatten().find(|old| old["type"] == condition.kind && old["status"] == status);
        let since = old.and_then(|old| old["lastTransitionTime"].as_str()).unwrap_or(now);
        json!({
            "type": condition.kind, "status": status, "reason": condition.reason, "message": condition.message,
            "lastTransitionTime": since, "observedGeneration": generation,
        })
    };
    Value::Array(all.iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_change_with_what_they_tell() {
        let all = |holds| [Condition { kind: "Accepted", holds, reason: "Accepted", message: String::new() }];
        let first = conditions(&all(true), &Value::Null, 1, "t1");
        assert_eq!(conditions(&all(true), &first, 1, "t2"), first);
        let second = conditions(&all(false), &first, 2, "t3");
        assert_eq!((&second[0]["lastTransitionTime"], &second[0]["observedGeneration"]), (&json!("t3"), &json!(2)));
    }
}

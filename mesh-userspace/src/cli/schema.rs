//! The documented schemas, and whether an answer keeps to them: the part of JSON Schema that they use.

use serde_json::Value;

/// Panics where `value` is not as `schema/<name>.json` says.
pub(super) fn check(name: &str, value: &Value) {
    let path = format!("{}/schema/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let schema: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
    if let Err(wrong) = fits(&schema, &schema, value, "$") {
        panic!("{wrong} (schema {name}) in {value:#}");
    }
}

fn fits(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    for (key, rule) in schema.as_object().ok_or_else(|| format!("{at}: its schema is no object"))? {
        let good = match key.as_str() {
            "$schema" | "title" | "description" | "properties" | "$defs" => true,
            "$ref" => return fits(root, referred(root, rule)?, value, at),
            "type" => is_a(rule, value),
            "enum" => rule.as_array().is_some_and(|all| all.contains(value)),
            "minimum" => value.as_f64() >= rule.as_f64(),
            "maximum" => value.as_f64() <= rule.as_f64(),
            "required" => rule.as_array().into_iter().flatten().all(|k| k.as_str().is_some_and(|k| value.get(k).is_some())),
            "additionalProperties" => {
                let mut others = value.as_object().into_iter().flatten().filter(|(k, _)| schema["properties"].get(k.as_str()).is_none());
                match rule {
                    Value::Object(_) => others.try_for_each(|(k, v)| fits(root, rule, v, &format!("{at}.{k}"))).map(|()| true)?,
                    _ => *rule == Value::Bool(false) && others.next().is_none(),
                }
            }
            "items" => {
                let mut items = value.as_array().into_iter().flatten().enumerate();
                items.try_for_each(|(i, item)| fits(root, rule, item, &format!("{at}[{i}]")))?;
                true
            }
            _ => return Err(format!("{at}: the schema has `{key}`, which is not checked")),
        };
        if !good {
            return Err(format!("{at}: {value} breaks {key} {rule}"));
        }
    }
    let parts = value.as_object().into_iter().flatten();
    parts.filter_map(|(k, v)| Some((k, v, schema["properties"].get(k)?))).try_for_each(|(k, v, s)| fits(root, s, v, &format!("{at}.{k}")))
}

fn referred<'a>(root: &'a Value, rule: &Value) -> Result<&'a Value, String> {
    let pointer = rule.as_str().and_then(|r| r.strip_prefix('#'));
    pointer.and_then(|p| root.pointer(p)).ok_or_else(|| format!("{rule} leads nowhere"))
}

fn is_a(kind: &Value, value: &Value) -> bool {
    match kind.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        _ => false,
    }
}

#[test]
fn what_does_not_keep_to_a_schema_is_found() {
    let schema = serde_json::json!({
        "type": "object", "additionalProperties": false, "required": ["a"],
        "properties": { "a": { "type": "integer", "minimum": 1 }, "m": { "additionalProperties": { "type": "integer" } }, "b": { "type": "array", "items": { "$ref": "#/$defs/c" } } },
        "$defs": { "c": { "enum": ["x", "y"] } }
    });
    let good = |text: &str| fits(&schema, &schema, &serde_json::from_str(text).unwrap(), "$");
    assert_eq!(good(r#"{"a": 1, "b": ["x", "y"], "m": {"n": 7}}"#), Ok(()));
    for bad in ["7", "{}", r#"{"a": 0}"#, r#"{"a": "1"}"#, r#"{"a": 1, "c": 2}"#, r#"{"a": 1, "m": {"n": "7"}}"#, r#"{"a": 1, "b": ["z"]}"#]
    {
        assert!(good(bad).is_err(), "{bad}");
    }
}

//! Fields of JSON objects.

use serde_json::Value;

/// The text or whole number, as text, in the field `field` of the JSON object `record`; `None` if it is
/// missing, empty or null.
///
/// # Errors
/// A message for any other value.
pub(super) fn text_field(record: &Value, field: &str) -> Result<Option<String>, String> {
    match record.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Some(Value::Number(number)) if !number.is_f64() => Ok(Some(number.to_string())),
        Some(other) => Err(format!("`{field}` is {other}: write text or a whole number")),
    }
}

//! JSON Patch (RFC 6902), as the event stream uses it.

use serde_json::Value as Json;

/// Carries out one operation.
pub(crate) fn apply(document: &mut Json, operation: &Json) {
    let path = operation["path"].as_str().expect("a path");
    let Some((parent, key)) = path.rsplit_once('/') else {
        *document = operation["value"].clone();
        return;
    };
    let key = key.replace("~1", "/").replace("~0", "~");
    let parent = document.pointer_mut(parent).unwrap_or_else(|| panic!("nothing is at {parent}"));
    let value = operation["value"].clone();
    match (operation["op"].as_str().expect("a name"), parent) {
        ("add", Json::Object(object)) => assert!(object.insert(key, value).is_none(), "{operation}"),
        ("replace", Json::Object(object)) => assert!(object.insert(key, value).is_some(), "{operation}"),
        ("remove", Json::Object(object)) => assert!(object.remove(&key).is_some(), "{operation}"),
        ("add", Json::Array(items)) => items.insert(key.parse().expect("a position"), value),
        ("replace", Json::Array(items)) => items[key.parse::<usize>().expect("a position")] = value,
        ("remove", Json::Array(items)) => drop(items.remove(key.parse().expect("a position"))),
        (other, parent) => panic!("{other} in {parent}"),
    }
}

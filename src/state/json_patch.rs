//! Conversion of patches to JSON Patch (RFC 6902), for clients that read nothing else.

use serde_json::{Value as Json, json};

use super::json::json_key;
use super::patch::{Change, Patch};

impl Patch {
    /// Converts the patch to JSON Patch. Applied to the [JSON](super::Value::to_json) of the value before the change,
    /// the result is the JSON of the value after it.
    ///
    /// ```
    /// use flowright::state::Tracker;
    ///
    /// let mut tracker = Tracker::new(1024);
    /// tracker.update(&vec![1, 2])?;
    /// let patch = tracker.update(&vec![1, 3, 4])?.expect("a change");
    /// let operations = serde_json::json!([
    ///     { "op": "replace", "path": "/1", "value": 3 },
    ///     { "op": "add", "path": "/2", "value": 4 },
    /// ]);
    /// assert_eq!(operations, patch.to_json_patch());
    /// # Ok::<_, flowright::state::StateError>(())
    /// ```
    pub fn to_json_patch(&self) -> Json {
        let mut operations = Vec::new();
        write(self, &mut String::new(), &mut operations);
        Json::Array(operations)
    }
}

fn write(patch: &Patch, path: &mut String, out: &mut Vec<Json>) {
    match patch {
        Patch::Set(value) => out.push(json!({ "op": "replace", "path": path, "value": value.to_json() })),
        Patch::Map(patch) => {
            for entry in &patch.entries {
                at(path, &json_key(&entry.key), |path| match &entry.change {
                    Change::Insert(value) => {
                        out.push(json!({ "op": "add", "path": path, "value": value.to_json() }));
                    }
                    Change::Update(patch) => write(patch, path, out),
                    Change::Remove => out.push(json!({ "op": "remove", "path": path })),
                });
            }
        }
        Patch::Seq(patch) => {
            for gone in (patch.len..patch.from).rev() {
                at(path, &gone.to_string(), |path| out.push(json!({ "op": "remove", "path": path })));
            }
            for (position, change) in &patch.items {
                at(path, &position.to_string(), |path| match change {
                    Patch::Set(value) if *position >= patch.from => {
                        out.push(json!({ "op": "add", "path": path, "value": value.to_json() }));
                    }
                    change => write(change, path, out),
                });
            }
        }
    }
}

/// Calls `call` with one more step, escaped as in RFC 6901, on the path.
fn at(path: &mut String, step: &str, call: impl FnOnce(&mut String)) {
    let length = path.len();
    path.push('/');
    path.push_str(&step.replace('~', "~0").replace('/', "~1"));
    call(path);
    path.truncate(length);
}

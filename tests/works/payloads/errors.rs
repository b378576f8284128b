//! References that cannot be read, and their errors.

use flowright::prelude::*;
use flowright::testing::TestApp;
use flowright::{PayloadError, Reason};

use super::Maker;
use crate::support::two;

/// A Work that reads a reference as another type than that of the value.
#[derive(Default, Serialize, Deserialize)]
struct Mistaken {
    told: String,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Way {
    Value,
    Deref,
}

impl Work for Mistaken {
    type Input = (Way, String);

    async fn run(&mut self, (way, reference): Self::Input, _cx: &mut WorkContext<Self>) -> Result<()> {
        let payload: Payload<String> = serde_json::from_str(&reference)?;
        match way {
            Way::Value => {
                let value = payload.value().await;
                if let Err(PayloadError::WrongType { .. }) = &value {
                    self.told = "wrong type".into();
                }
                value?;
            }
            Way::Deref => drop(payload.len()),
        }
        Ok(())
    }
}

#[test]
fn a_payload_that_is_read_as_another_type_is_a_typed_error_that_names_both() {
    for way in [Way::Value, Way::Deref] {
        let app = TestApp::start(move || {
            two(WorkRef::from(Maker::default()), WorkRef::from(Mistaken::default()), move |a, b, _| {
                let table = a.run(1).finished()?.table.clone().expect("the value was made");
                b.run((way, serde_json::to_string(&table)?));
                Ok(())
            })
        });
        let exit = app.wait_for_exit();
        let error = exit.result.unwrap_err().to_string();
        for part in ["work `b` failed", "Vec<Vec<i64>>", "made by work `a`", "String"] {
            assert!(error.contains(part), "no {part} in: {error}");
        }
    }
}

#[test]
fn a_reference_that_outlived_its_value_says_what_it_was() {
    let app = TestApp::start(|| {
        let mut reference = None;
        two(WorkRef::from(Maker::default()), WorkRef::from(Mistaken::default()), move |a, b, _| {
            if reference.is_none() {
                let table = a.run(1).finished()?.table.clone().expect("the value was made");
                reference = Some(serde_json::to_string(&table)?);
            }
            assert!(a.run(2).finished()?.table.is_some());
            b.run((Way::Value, reference.clone().expect("kept above")));
            Ok(())
        })
    });
    let exit = app.wait_for_exit();
    let error = exit.result.unwrap_err().to_string();
    for part in ["is lost", "Vec<Vec<i64>>", "bytes, made by work `a`"] {
        assert!(error.contains(part), "no {part} in: {error}");
    }
    assert_eq!(exit.status.works["b"].status.reason, Some(Reason::PayloadLost));
}

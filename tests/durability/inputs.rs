//! Programs whose type of input has changed since the journal was written.

use std::process::Command;

use flowright::prelude::*;
use serde_json::json;

use crate::editions::{Directory, Shop, begun, line};
use crate::process::VARIABLE;
use crate::record::{What, note};

crate::tests![
    input_with_a_new_field_is_remembered,
    inputs_that_become_equal_run_once,
    input_that_cannot_be_read_is_kept,
];

/// The item whose run does not end; the one after it waits for its turn.
const ENDLESS: u64 = 9;

/// Defines the module of an edition: the fields of the input, and the inputs that the Flow requests.
macro_rules! edition {
    ($name:ident, { $($fields:tt)* }, $orders:expr) => {
        mod $name {
            use super::*;

            #[derive(Default, Clone, Serialize, Deserialize)]
            struct Order { $($fields)* }

            #[derive(Default, Serialize, Deserialize)]
            struct Desk {
                /// The number of times that the endless run has begun.
                endless: u64,
            }

            impl Work for Desk {
                type Input = Order;

                async fn run(&mut self, order: Order, cx: &mut WorkContext<Self>) -> Result<()> {
                    let item = order.item.to_string().parse().unwrap_or(0);
                    note(cx.path().as_str(), What::Begin, item, cx.attempt());
                    if item == ENDLESS {
                        self.endless += 1;
                        cx.publish(self);
                        cx.serve_forever(self).await?;
                    }
                    Ok(())
                }
            }

            #[derive(Default, Serialize, Children)]
            struct Counter {
                finished: usize,
                desk: WorkRef<Desk>,
            }

            impl Flow for Counter {
                fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
                    let orders: Vec<Order> = $orders;
                    let finished = orders.into_iter().map(|order| self.desk.run(order).finished().is_ok());
                    self.finished = finished.filter(|is_finished| *is_finished).count();
                    Ok(())
                }
            }

            pub(super) fn main() -> ExitCode {
                App::new(Counter::default).main()
            }
        }
    };
}

edition!(plain, { item: u64 }, [1, 2, 3, ENDLESS, 10].map(|item| Order { item }).to_vec());
edition!(
    with_default,
    { item: u64, #[serde(default)] urgent: bool },
    [1, 2, 3, ENDLESS, 10].map(|item| Order { item, ..Order::default() }).to_vec()
);
edition!(
    distinct,
    { item: u64, copy: u8 },
    [(1, 0), (1, 1), (2, 0)].map(|(item, copy)| Order { item, copy }).to_vec()
);
edition!(equal, { item: u64 }, [1, 2].map(|item| Order { item }).to_vec());
edition!(
    texts,
    { item: String },
    ["1", "2", "12"].map(|item| Order { item: item.to_owned() }).to_vec()
);

pub(crate) fn run(edition: &str) -> Option<ExitCode> {
    Some(match edition {
        "inputs_plain" => plain::main(),
        "inputs_with_default" => with_default::main(),
        "inputs_distinct" => distinct::main(),
        "inputs_equal" => equal::main(),
        "inputs_texts" => texts::main(),
        _ => return None,
    })
}

/// What `journal check` says when the edition is to take over.
fn check(edition: &str, directory: &Directory) -> String {
    let mut command = Command::new(std::env::current_exe().expect("the path of the test binary is known"));
    command.env(VARIABLE, edition).args(["journal", "check"]).arg(directory.join("journal"));
    let output = command.output().expect("the test binary starts");
    String::from_utf8(output.stdout).expect("it is text")
}

/// The items whose runs have begun, in order.
fn items(directory: &Directory) -> Vec<u64> {
    let mut items: Vec<_> = begun(directory).into_iter().map(|(_, item)| item).collect();
    items.sort_unstable();
    items
}

const NEW_KEYS: &str = "the type of input of work `desk` has changed";

/// Runs that have succeeded do not run again, the one under way starts again, and the one behind it still waits, whichever
/// edition follows on which.
fn input_with_a_new_field_is_remembered() {
    let directory = Directory::new("inputs-default");
    let editions = ["plain", "with_default", "with_default", "plain", "plain"];
    for (life, edition) in (1..).zip(editions) {
        let edition = format!("inputs_{edition}");
        let is_other = matches!(life, 2 | 4);
        let said = if life > 1 { check(&edition, &directory) } else { String::new() };
        assert_eq!(said.contains("other keys: desk: 5 remembered inputs"), is_other, "{said}");
        let shop = Shop::open(&edition, &directory);
        shop.state(|state| state["finished"] == 3 && state["desk"]["endless"] == life);
        let status = shop.get("status");
        assert_eq!(status["app"]["journal"]["unread_inputs"], json!({}), "{status:#}");
        let lines = shop.kill();
        assert_eq!(lines.iter().any(|line| line.contains(NEW_KEYS)), is_other, "{lines:#?}");
        let mut expected = vec![1, 2, 3];
        expected.extend((0..life).map(|_| ENDLESS));
        assert_eq!(items(&directory), expected);
    }
}

fn inputs_that_become_equal_run_once() {
    let directory = Directory::new("inputs-equal");
    let shop = Shop::open("inputs_distinct", &directory);
    shop.state(|state| state["finished"] == 3);
    shop.kill();
    for is_first in [true, false] {
        let shop = Shop::open("inputs_equal", &directory);
        shop.state(|state| state["finished"] == 2);
        let lines = shop.close();
        let said = lines.iter().find(|line| line.contains(NEW_KEYS));
        assert_eq!(said.is_some(), is_first, "{lines:#?}");
        assert!(said.is_none_or(|said| said.contains("1 has become equal to another")), "{lines:#?}");
        assert_eq!(items(&directory), [1, 1, 2]);
    }
}

/// The outcome stays, and counts again in a program that can read the input.
fn input_that_cannot_be_read_is_kept() {
    let directory = Directory::new("inputs-kept");
    let shop = Shop::open("inputs_equal", &directory);
    shop.state(|state| state["finished"] == 2);
    shop.kill();
    let said = check("inputs_texts", &directory);
    assert!(said.contains("not readable: ") && said.contains("of work `desk` 2 cannot be read"), "{said}");
    for is_first in [true, false] {
        let shop = Shop::open("inputs_texts", &directory);
        shop.state(|state| state["finished"] == 3);
        let status = shop.get("status");
        assert_eq!(status["app"]["journal"]["unread_inputs"], json!({ "desk": 2 }), "{status:#}");
        let lines = shop.close();
        let warned = lines.iter().find(|line| line.contains("of work `desk` 2 cannot be read"));
        assert_eq!(warned.is_some(), is_first, "{lines:#?}");
        assert!(warned.is_none_or(|warned| warned.contains("WARN")), "{lines:#?}");
        assert_eq!(items(&directory), [1, 1, 2, 2, 12]);
    }
    // The inputs with texts are now those that cannot be read.
    let shop = Shop::open("inputs_equal", &directory);
    shop.state(|state| state["finished"] == 2);
    line(&shop.close(), "of work `desk` 3 cannot be read");
    assert_eq!(items(&directory), [1, 1, 2, 2, 12]);
}

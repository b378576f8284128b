//! Reading values, and equality of payloads.

use std::collections::BTreeMap;
use std::sync::Arc;

use flowright::prelude::*;
use flowright::testing::TestApp;

use super::{Maker, Table};
use crate::support::{one, two, wherever_it_runs};

/// A Work that reads tables by both methods.
#[derive(Default, Serialize, Deserialize)]
struct Reader {
    first_numbers: Vec<i64>,
    address: usize,
}

impl Work for Reader {
    type Input = Payload<Table>;

    async fn run(&mut self, table: Payload<Table>, _cx: &mut WorkContext<Self>) -> Result<()> {
        assert_eq!(table.len(), 2);
        let value = table.value().await?;
        assert!(std::ptr::eq(&raw const **value, &raw const **table));
        self.address = Arc::as_ptr(&value) as usize;
        self.first_numbers.push(value[0][0]);
        Ok(())
    }
}

#[test]
fn a_work_reads_the_very_allocation_that_another_one_made() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let maker = WorkRef::from(Maker::default()).placed(placement);
            two(maker, WorkRef::from(Reader::default()).placed(placement), |a, b, cx| {
                let made = a.run(1).finished()?;
                let table = made.table.clone().expect("the run has made it");
                let read = b.run(table).finished()?;
                assert_eq!(read.first_numbers, [1]);
                assert_eq!(read.address, made.address);
                cx.stop("it was read");
                Ok(())
            })
        });
        app.wait_for_exit().result.unwrap();
    });
}

#[test]
fn the_apps_state_has_a_small_reference_and_not_the_value() {
    #[derive(Default, Serialize, Deserialize)]
    struct Big {
        bytes: Option<Payload<Vec<u8>>>,
    }

    impl Work for Big {
        type Input = usize;

        async fn run(&mut self, size: usize, cx: &mut WorkContext<Self>) -> Result<()> {
            self.bytes = Some(cx.payload(vec![200; size])?);
            Ok(())
        }
    }

    let root = || {
        one(WorkRef::from(Big::default()), |work, cx| {
            let made = work.run(3_000_000).finished()?.bytes.as_ref().expect("the run has made it");
            assert!(made.encoded_len() >= 3_000_000);
            assert_eq!(made.origin(), "work");
            cx.stop("it was made");
            Ok(())
        })
    };
    let exit = TestApp::start_app(App::new(root).max_state_bytes(300)).wait_for_exit();
    exit.result.unwrap();
    assert!(exit.state.encoded_len() < 300, "{}", exit.state.encoded_len());
}

#[derive(Serialize, Children)]
struct TwoMakers {
    left: WorkRef<Maker>,
    right: WorkRef<Maker>,
    reader: WorkRef<Reader>,
}

impl Flow for TwoMakers {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let left = self.left.run(7).finished()?.table.clone().expect("the value was made");
        let right = self.right.run(7).finished()?.table.clone().expect("the value was made");
        self.reader.run(left).finished()?;
        self.reader.run(right).finished()?;
        let other = self.right.run(8).finished()?.table.clone().expect("the value was made");
        self.reader.run(other).finished()?;
        assert_eq!(self.reader.first_numbers, [7, 8]);
        cx.stop("both contents were read");
        Ok(())
    }
}

#[test]
fn equal_content_is_the_same_input_whoever_made_it_and_new_content_is_a_new_one() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || TwoMakers {
            left: WorkRef::from(Maker::default()).placed(placement),
            right: WorkRef::from(Maker::default()).placed(placement),
            reader: WorkRef::from(Reader::default()).placed(placement),
        });
        app.wait_for_exit().result.unwrap();
    });
}

/// Payloads of equal maps are equal, in whatever order the maps iterate, and are one input of a run.
#[test]
fn payloads_of_equal_maps_are_equal() {
    type Map = std::collections::HashMap<String, std::collections::HashMap<u8, Option<Option<u8>>>>;

    #[derive(Default, Serialize, Deserialize)]
    struct Maps {
        made: Vec<Payload<Map>>,
    }

    impl Work for Maps {
        type Input = ();

        async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
            let map = |last: Option<u8>| -> Map {
                let inner = || (0..16).map(|n| (n, Some(Some(n)))).chain([(16, Some(last))]).collect();
                (0..16).map(|n| (n.to_string(), inner())).collect()
            };
            for last in [None, None, Some(1)] {
                self.made.push(cx.payload(map(last))?);
            }
            Ok(())
        }
    }

    #[derive(Default, Serialize, Deserialize)]
    struct Takes;

    impl Work for Takes {
        type Input = Payload<Map>;

        async fn run(&mut self, map: Payload<Map>, _cx: &mut WorkContext<Self>) -> Result<()> {
            assert_eq!(map.value().await?.len(), 16);
            Ok(())
        }
    }

    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let makes = WorkRef::from(Maps::default()).placed(placement);
            two(makes, WorkRef::from(Takes), move |makes, takes, cx| {
                let made = &makes.run(()).finished()?.made;
                assert!(made[0] == made[1] && made[0] != made[2]);
                assert_eq!(made[0].content_hash(), made[1].content_hash());
                let all = made.iter().map(|map| takes.run(map.clone()).finished().is_ok());
                if all.fold(true, |all, done| all & done) {
                    assert_eq!(takes.successes(), 2);
                    cx.stop("all were read");
                }
                Ok(())
            })
        });
        app.wait_for_exit().result.unwrap();
    });
}

#[derive(Serialize, Children)]
struct FanOut {
    makers: BTreeMap<String, WorkRef<Maker>>,
    readers: BTreeMap<String, WorkRef<Reader>>,
}

impl Flow for FanOut {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        for (seed, maker) in (0..).zip(self.makers.values()) {
            maker.run(seed);
        }
        let mut done = true;
        for ((name, maker), reader) in self.makers.iter().zip(self.readers.values()) {
            let Some(table) = &maker.table else { return Ok(()) };
            assert_eq!(table.origin(), format!("makers.{name}"));
            done &= reader.run(table.clone()).finished().is_ok();
        }
        if done {
            for (seed, reader) in (0..).zip(self.readers.values()) {
                assert_eq!(reader.first_numbers, [seed]);
            }
            cx.stop("all were read");
        }
        Ok(())
    }
}

#[test]
fn payloads_in_fields_of_the_same_name_in_many_works_do_not_mix() {
    wherever_it_runs(|placement| {
        let app = TestApp::start(move || {
            let names = || ["a", "b", "c", "d"].map(str::to_owned).into_iter();
            FanOut {
                makers: names().map(|n| (n, WorkRef::from(Maker::default()).placed(placement))).collect(),
                readers: names().map(|n| (n, WorkRef::from(Reader::default()).placed(placement))).collect(),
            }
        });
        app.wait_for_exit().result.unwrap();
    });
}

//! Reading a value, wherever it was made.

use super::office::{Clerk, Errand, open, open_with, summary, value};
use crate::certificates::certs;

crate::tests![
    values_are_what_was_made_wherever_they_are_read,
    values_come_over_tls_as_well,
    on_one_node_it_is_the_same_allocation,
    values_in_messages_and_answers_are_pulled_from_their_node,
    a_thousand_pulls_at_once,
    those_who_want_it_at_once_share_one_transfer,
    a_value_is_pulled_by_dereferencing_it,
    a_thread_that_must_not_wait_does_not,
    another_type_is_refused_with_both,
    what_is_prefetched_is_there,
];

fn values_are_what_was_made_wherever_they_are_read() {
    for places in [["thread", "process", "n"], ["m", "n/pool", "process"], ["process", "thread", "m/pool"]] {
        let open = open(places, &[], |office, cx| {
            let made =
                office.a.run(Errand::Make { count: 1, length: 3_000_000, seed: 1 }).finished()?.made.clone();
            let few =
                office.a.run(Errand::Make { count: 1, length: 1_000, seed: 2 }).finished()?.made[1].clone();
            let none =
                office.a.run(Errand::Make { count: 1, length: 0, seed: 2 }).finished()?.made[2].clone();
            let table =
                office.a.run(Errand::Table(50_000)).finished()?.table.clone().expect("the value was made");
            let all = vec![made[0].clone(), few, none];
            for reader in [&office.b, &office.c] {
                reader.run(Errand::Read(all.clone())).finished()?;
                let read = &reader.run(Errand::ReadTable(table.clone())).finished()?.read;
                let expected =
                    [summary(&value(3_000_000, 1)), summary(&value(1_000, 2)), (0, 0), (50_000, 100_000)];
                assert_eq!(read[..], expected);
            }
            cx.stop("all were read");
            Ok(())
        });
        open.app.wait_for_exit().result.unwrap();
    }
}

fn values_come_over_tls_as_well() {
    const LENGTH: usize = 10_000_000;
    let certs = certs("payloads");
    // Without certificates, nodes may not listen at this address.
    let flags = [certs.flags("good"), vec!["--listen".to_owned(), "0.0.0.0:0".to_owned()]].concat();
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let open =
        open_with("0.0.0.0:0", certs.config("good"), ["process", "n", "thread"], &flags, |office, cx| {
            let made =
                office.a.run(Errand::Make { count: 1, length: LENGTH, seed: 1 }).finished()?.made.clone();
            for reader in [&office.b, &office.c] {
                let read = &reader.run(Errand::Read(made.clone())).finished()?.read;
                assert_eq!(read[..], [summary(&value(LENGTH, 1))]);
            }
            cx.stop("both have read it");
            Ok(())
        });
    open.app.wait_for_exit().result.unwrap();
}

fn on_one_node_it_is_the_same_allocation() {
    let open = open(["n", "n/pool", "thread"], &[], |office, cx| {
        let a = office.a.run(Errand::Make { count: 1, length: 500_000, seed: 1 }).finished()?;
        let b = office.b.run(Errand::Read(a.made.clone())).finished()?;
        assert_eq!((a.process, a.address), (b.process, b.address));
        cx.stop("it was");
        Ok(())
    });
    open.app.wait_for_exit().result.unwrap();
}

fn values_in_messages_and_answers_are_pulled_from_their_node() {
    for places in
        [["m", "n", "thread"], ["thread", "n", "m"], ["process", "m", "thread"], ["m", "process", "n"]]
    {
        let open = open(places, &[], |office, _| {
            // An address leads to its Work once that has started.
            if office.b.run(Errand::Forget).finished().is_ok() {
                office.a.run(Errand::Give(office.b.addr()));
            }
            Ok(())
        });
        let a: Clerk = open.app.wait_for_state("a", |clerk: &Clerk| clerk.read.len() == 1);
        assert_eq!(a.read, [summary(&value(300_000, 9))]);
        for clerk in ["a", "b"] {
            open.until(clerk, |usage| usage.memory == 0);
        }
        open.app.stop().result.unwrap();
    }
}

fn a_thousand_pulls_at_once() {
    let open = open(["m", "n/pool", "thread"], &[], |office, cx| {
        office.a.run(Errand::Make { count: 1_000, length: 2_000, seed: 1 }).finished()?;
        let made =
            office.a.run(Errand::Make { count: 20, length: 200_000, seed: 1 }).finished()?.made.clone();
        let read = &office.b.run(Errand::Read(made)).finished()?.read;
        assert_eq!(read.len(), 1_020);
        cx.stop("all were read");
        Ok(())
    });
    open.app.wait_for_exit().result.unwrap();
}

fn those_who_want_it_at_once_share_one_transfer() {
    let open = open(["m", "n", "n/pool"], &[], |office, cx| {
        let made =
            office.a.run(Errand::Make { count: 2, length: 5_000_000, seed: 1 }).finished()?.made.clone();
        office.c.run(Errand::ReadTogether(made[0].clone(), 500));
        office.b.run(Errand::ReadTogether(made[0].clone(), 500)).finished()?;
        office.c.run(Errand::ReadTogether(made[0].clone(), 500)).finished()?;
        assert_eq!(office.b.read, office.c.read);
        cx.stop("they did");
        Ok(())
    });
    open.app.wait_for_exit().result.unwrap();
}

fn a_value_is_pulled_by_dereferencing_it() {
    let open = open(["m", "n", "process"], &[], |office, cx| {
        let made = office.a.run(Errand::Make { count: 2, length: 500_000, seed: 1 }).finished()?.made.clone();
        let b = office.b.run(Errand::Deref(made[0].clone())).finished()?;
        let c = office.c.run(Errand::Deref(made[1].clone())).finished()?;
        assert_eq!(b.read, [summary(&value(500_000, 1))]);
        assert_eq!(c.read, [summary(&value(500_000, 2))]);
        cx.stop("they were read");
        Ok(())
    });
    open.app.wait_for_exit().result.unwrap();
}

fn a_thread_that_must_not_wait_does_not() {
    let open = open(["m", "n/pool", "thread"], &[], |office, _| {
        let made = office.a.run(Errand::Make { count: 1, length: 500_000, seed: 1 }).finished()?.made.clone();
        office.b.run(Errand::Deref(made[0].clone()));
        Ok(())
    });
    let error = open.app.wait_for_exit().result.unwrap_err().to_string();
    assert!(error.contains("must not wait") && error.contains(".value().await"), "{error}");
}

fn another_type_is_refused_with_both() {
    let open = open(["m", "n", "thread"], &[], |office, _| {
        let made =
            office.a.run(Errand::Make { count: 1, length: 500_000, seed: 1 }).finished()?.made[0].clone();
        let json = serde_json::to_string(&made).expect("the reference is serialisable");
        let forged = serde_json::from_str(&json.replace("Vec<u8>", "Vec<f32>"))
            .expect("the text has the form of a reference");
        office.b.run(Errand::ReadAs(forged));
        Ok(())
    });
    let error = open.app.wait_for_exit().result.unwrap_err().to_string();
    assert!(error.contains("`alloc::vec::Vec<u8>`") && error.contains("`alloc::vec::Vec<f32>`"), "{error}");
}

fn what_is_prefetched_is_there() {
    let open = open(["m", "n", "thread"], &[], |office, cx| {
        let made =
            office.a.run(Errand::Make { count: 1, length: 5_000_000, seed: 1 }).finished()?.made.clone();
        let b = office.b.run(Errand::Prefetch(made[0].clone())).finished()?;
        assert_eq!(b.read, [summary(&value(5_000_000, 1))]);
        cx.stop("it was");
        Ok(())
    });
    open.app.wait_for_exit().result.unwrap();
}

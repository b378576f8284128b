//! Two processes with one journal.

use crate::editions::{Directory, Shop, start};

crate::tests![second_process_is_refused_with_the_first_ones_id, process_that_is_stopped_keeps_its_journal,];

/// Asserts that a second process is refused, and told the first one's number.
#[track_caller]
fn is_refused(directory: &Directory, first: u32) {
    let (code, lines) = start("first", directory).end();
    assert_eq!(code, Some(1), "{lines:#?}");
    let error = lines.iter().find(|line| line.contains("ERROR"));
    let words = error.into_iter().flat_map(|line| line.split(|c: char| !c.is_ascii_digit()));
    assert!(words.into_iter().any(|word| word == first.to_string()), "{first} is not in {lines:#?}");
}

fn second_process_is_refused_with_the_first_ones_id() {
    let directory = Directory::new("second");
    let shop = Shop::open("first", &directory);
    shop.until_open(2, 1);
    is_refused(&directory, shop.process.id());
    // The first one has not noticed.
    shop.until_open(2, 1);
    shop.close();
    // After a clean end the directory is free.
    let shop = Shop::open("first", &directory);
    shop.until_open(2, 2);
    shop.close();
}

fn process_that_is_stopped_keeps_its_journal() {
    let directory = Directory::new("sigstop");
    let shop = Shop::open("first", &directory);
    shop.until_open(2, 1);
    shop.process.signal("STOP");
    is_refused(&directory, shop.process.id());
    is_refused(&directory, shop.process.id());
    shop.kill();
    let shop = Shop::open("first", &directory);
    shop.until_open(2, 2);
    shop.close();
}

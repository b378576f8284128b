//! `journal rereact`: recorded reactions that are repeated by the same program, and by changed ones.

use std::path::Path;
use std::time::SystemTime;

use flowright::Journaled;
use flowright::prelude::*;
use serde_json::{Value as Json, json};

use crate::editions::{Directory, Shop, command, command_apart};

crate::tests![
    same_program_asks_for_the_same_after_several_lives,
    changed_program_differs_in_each_reaction_that_it_changes,
    differences_are_exact_where_everything_is_recorded,
    ranges_select_reactions,
    addresses_in_inputs_are_the_same,
    works_that_are_not_recorded_are_counted,
    payload_without_its_value_is_counted,
    journals_that_cannot_be_read_are_refused,
    editions_are_compared_field_by_field,
];

/// A Work without a state, whose runs just succeed.
#[derive(Default, Serialize, Deserialize)]
struct Desk;

impl Work for Desk {
    type Input = u64;

    async fn run(&mut self, _: u64, _: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }
}

/// A Flow without own fields, everything about which is recorded: no state of it is ever merged with another one.
#[derive(Serialize, Children)]
struct Clerk {
    desk: WorkRef<Desk>,
    aside: WorkRef<Desk>,
    #[serde(skip)]
    last: u64,
}

impl Flow for Clerk {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        for number in 1..=3 {
            self.desk.run(number).finished()?;
        }
        self.aside.run(self.last).finished()?;
        Ok(())
    }
}

/// A Flow that reads the value of a payload of its Work.
#[derive(Serialize, Children)]
struct Library {
    length: usize,
    press: WorkRef<Press>,
    #[serde(skip)]
    wanted: usize,
}

#[derive(Default, Serialize, Deserialize)]
struct Press {
    page: Option<Payload<Vec<u8>>>,
}

impl Work for Press {
    type Input = usize;

    async fn run(&mut self, length: usize, cx: &mut WorkContext<Self>) -> Result<()> {
        self.page = Some(cx.payload(vec![7; length])?);
        Ok(())
    }
}

impl Flow for Library {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.press.run(self.wanted);
        self.length = self.press.page.as_ref().map_or(0, |page| page.len());
        Ok(())
    }
}

/// A Flow that gives a payload of one Work to another.
#[derive(Serialize, Children)]
struct Copier {
    press: WorkRef<Press>,
    copies: WorkRef<Copies>,
    #[serde(skip)]
    wanted: usize,
}

#[derive(Default, Serialize, Deserialize)]
struct Copies;

impl Work for Copies {
    type Input = Option<Payload<Vec<u8>>>;

    async fn run(&mut self, _: Self::Input, _: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }
}

impl Flow for Copier {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        let press = self.press.run(self.wanted).finished()?;
        self.copies.run(press.page.clone());
        Ok(())
    }
}

/// What a Flow prints in each reaction.
const PRINTED: &str = "the office reacts";

/// A Flow that gives a Work the address of another one, and prints.
#[derive(Default, Serialize, Children)]
struct Office {
    desk: WorkRef<Desk>,
    caller: WorkRef<Caller>,
}

#[derive(Default, Serialize, Deserialize)]
struct Caller;

impl Work for Caller {
    type Input = WorkAddr<Desk>;

    async fn run(&mut self, _: WorkAddr<Desk>, _: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }
}

impl Flow for Office {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        println!("{PRINTED}");
        self.caller.run(self.desk.addr()).finished()?;
        self.desk.run(1);
        Ok(())
    }
}

/// A Flow above a Work of which only runs are recorded.
#[derive(Serialize, Children)]
struct Half {
    desk: WorkRef<Desk>,
}

impl Flow for Half {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.desk.run(1);
        Ok(())
    }
}

pub(crate) fn run(program: &str) -> Option<ExitCode> {
    let clerk =
        |last| App::new(move || Clerk { desk: WorkRef::default(), aside: WorkRef::default(), last }).main();
    let library = |wanted| App::new(move || Library { length: 0, press: WorkRef::default(), wanted }).main();
    let copier = |wanted| {
        App::new(move || Copier { press: WorkRef::default(), copies: WorkRef::default(), wanted }).main()
    };
    Some(match program {
        "copier_of_long_pages" => copier(LONG),
        "copier_of_short_pages" => copier(SHORT),
        "clerk" => clerk(9),
        "clerk_of_another_mind" => clerk(8),
        "library_of_long_pages" => library(LONG),
        "library_of_short_pages" => library(SHORT),
        "office" => App::new(Office::default).main(),
        "half" => App::new(|| Half { desk: WorkRef::new(Desk).journal(Journaled::RunsOnly) }).main(),
        _ => return None,
    })
}

const LONG: usize = 100_000;
const SHORT: usize = 1_000;

/// Repeats the reactions in the journal of a directory, and returns the exit code with the answer.
#[track_caller]
fn rereact(program: &str, directory: &Path, arguments: &[&str]) -> (i32, Json) {
    // The hook for panics of this program writes to the second stream.
    let (code, [said, errors]) =
        command_apart(program, directory, &[&["rereact", "--json"], arguments].concat());
    let json =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {code:?} {said} {errors}"));
    (code.expect("it ends by itself"), json)
}

fn number(json: &Json, name: &str) -> u64 {
    json[name].as_u64().unwrap_or_else(|| panic!("there is no number {name} in {json:#}"))
}

/// The texts of what is asked for, of one item.
fn texts<'j>(item: &'j Json, side: &str) -> Vec<&'j str> {
    let decisions = item[side].as_array().unwrap_or_else(|| panic!("{item:#}"));
    decisions.iter().map(|decision| decision["text"].as_str().expect("it has a text")).collect()
}

/// Has the program with this seed do something in several lives, each of which is killed.
fn whims(seed: u64) -> Directory {
    let directory = Directory::new(&format!("whims-{seed}"));
    for life in 1..=LIVES {
        let shop = Shop::open(&format!("whims_{seed}"), &directory);
        shop.state(|state| state["steps"].as_u64() >= Some(life * STEPS));
        shop.kill();
    }
    directory
}

/// Number of lives, and of reactions of the root in each.
const LIVES: u64 = 3;
const STEPS: u64 = 120;

/// The seeds, which `FLOWRIGHT_WHIMS` is the number of.
fn seeds() -> Vec<u64> {
    let count = std::env::var("FLOWRIGHT_WHIMS").ok().and_then(|count| count.parse().ok()).unwrap_or(3);
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // One is new each time.
    (1..count).chain([time.as_micros() as u64 % 1_000_000]).collect()
}

/// Whatever the Flows do, the same program asks for the same, and what is merged is counted.
fn same_program_asks_for_the_same_after_several_lives() {
    let mut not_in_full = 0;
    for seed in seeds() {
        let directory = whims(seed);
        let (code, found) = rereact(&format!("whims_{seed}"), &directory, &[]);
        assert_eq!((code, number(&found, "differ")), (0, 0), "seed {seed}: {found:#}");
        let (all, merged) = (number(&found, "reactions"), number(&found, "not_recorded_in_full"));
        assert!(all >= LIVES * STEPS, "seed {seed}: {found:#}");
        assert!(merged < all * 9 / 10, "seed {seed}: {found:#}");
        assert_eq!(found["missing"], if merged == 0 { json!({}) } else { json!({ "states": merged }) });
        not_in_full += merged;
    }
    assert!(not_in_full > 0, "states were merged");
}

/// Each reaction of the root is another one now, and none of the Flows below it.
fn changed_program_differs_in_each_reaction_that_it_changes() {
    let directory = whims(77);
    let (code, found) = rereact("whims_77_longer", &directory, &[]);
    assert_eq!(code, 1);
    let items = found["items"].as_array().expect("there are items");
    assert!(items.len() > 50, "{}", items.len());
    for item in items {
        assert_eq!(item["flow"], "", "{item:#}");
        let (then, now) = (texts(item, "then"), texts(item, "now"));
        assert_eq!((then.len(), now.len()), (1, 1), "{item:#}");
        let seconds = |side: &str| item[side][0]["seconds"].as_f64().expect("it is a time");
        assert!((seconds("now") - seconds("then") - 0.001).abs() < 1e-9, "{item:#}");
    }
}

/// Makes a journal of the clerk, who has done everything.
fn clerk(name: &str) -> Directory {
    let directory = Directory::new(name);
    for _ in 0..2 {
        let shop = Shop::open("clerk", &directory);
        shop.until_succeeded("aside", 1);
        shop.kill();
    }
    directory
}

/// Once three runs have succeeded, the changed program asks for another one in each reaction; before that for nothing else.
fn differences_are_exact_where_everything_is_recorded() {
    let directory = clerk("clerk");
    let (code, same) = rereact("clerk", &directory, &[]);
    assert_eq!((code, number(&same, "differ"), number(&same, "not_recorded_in_full")), (0, 0, 0), "{same:#}");
    let (code, found) = rereact("clerk_of_another_mind", &directory, &[]);
    assert_eq!((code, number(&found, "not_recorded_in_full")), (1, 0), "{found:#}");
    let items = found["items"].as_array().expect("there are items");
    let first = number(&items[0], "position").to_string();
    let (_, rest) = rereact("clerk", &directory, &["--at", &format!("{first}..")]);
    assert_eq!(number(&rest, "reactions"), items.len() as u64, "{found:#}");
    assert!(items.len() >= 3, "it starts, ends and is there in the next life: {found:#}");
    for (index, item) in items.iter().enumerate() {
        let then = if index == 0 { vec!["run(9) of aside"] } else { Vec::new() };
        assert_eq!((texts(item, "then"), texts(item, "now")), (then, vec!["run(8) of aside"]), "{item:#}");
    }
    let (code, said) = command("clerk_of_another_mind", &directory, &["rereact", "--at", &first]);
    assert_eq!(code, Some(1));
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].contains(&format!("{first}  ")) && lines[0].contains("  root  reaction "), "{said}");
    assert_eq!(
        lines[1..],
        [
            "  then: run(9) of aside",
            "   now: run(8) of aside",
            "1 reaction, 1 differ, 0 not recorded in full"
        ]
    );
}

fn ranges_select_reactions() {
    let directory = clerk("ranges");
    let count = |range: &str| {
        let (code, found) = rereact("clerk", &directory, &["--at", range]);
        assert_eq!(code, 0, "{found:#}");
        number(&found, "reactions")
    };
    let (_, all) = rereact("clerk", &directory, &[]);
    let (from, to) = (number(&all, "from"), number(&all, "to"));
    let (all, middle) = (number(&all, "reactions"), (from + to) / 2);
    assert!(all > 4 && from == 1, "{all} {from}");
    assert_eq!(count(".."), all);
    assert_eq!(count(&format!("{from}..{to}")), all);
    assert_eq!(count(&format!("..{middle}")) + count(&format!("{}..", middle + 1)), all);
    assert_eq!((from..=to).map(|position| count(&position.to_string())).sum::<u64>(), all);
    // A time is the last position at or before it.
    assert_eq!(count("1..2100-01-01T00:00:00Z"), all);
    assert_eq!(count("2100-01-01T00:00:00Z"), count(&to.to_string()));
    for (range, exit, part) in [
        ("x", 2, "write a position such as 17"),
        ("7..3", 2, "write the earlier moment first"),
        ("100000..", 1, "is not in the journal, which has the positions"),
        ("100000", 1, "is not in the journal, which has the positions"),
        ("2020-01-01T00:00:00Z..", 1, "the journal begins after that time"),
    ] {
        let (code, said) = command("clerk", &directory, &["rereact", "--at", range]);
        assert!(code == Some(exit) && said.contains(part), "{range}: {code:?} {said}");
    }
}

/// A Flow that prints does so again.
fn addresses_in_inputs_are_the_same() {
    let directory = Directory::new("office");
    let shop = Shop::open("office", &directory);
    shop.until_succeeded("desk", 1);
    shop.kill();
    let (code, said) = command("office", &directory, &["rereact"]);
    assert!(code == Some(0) && said.contains(" reactions, 0 differ, 0 not recorded in full"), "{said}");
    let printed = said.lines().filter(|line| *line == PRINTED).count();
    assert!(printed > 2, "{said}");
}

fn works_that_are_not_recorded_are_counted() {
    let directory = Directory::new("half");
    let shop = Shop::open("half", &directory);
    shop.until_succeeded("desk", 1);
    shop.kill();
    let (code, found) = rereact("half", &directory, &[]);
    let all = number(&found, "reactions");
    assert!(code == 0 && all > 0, "{found:#}");
    assert_eq!(found["missing"], json!({ "works": all }));
}

/// A value can be part of an input if the journal has it. Reactions that read one are not repeated, since it is not
/// recorded whether the value was in the head then.
fn payload_without_its_value_is_counted() {
    for (program, length) in [("library_of_short_pages", SHORT), ("library_of_long_pages", LONG)] {
        let directory = Directory::new(program);
        let shop = Shop::open(program, &directory);
        shop.state(|state| state["length"] == length);
        shop.kill();
        let (code, found) = rereact(program, &directory, &[]);
        assert_eq!((code, number(&found, "differ")), (0, 0), "{found:#}");
        assert!(number(&found["missing"], "payloads") > 0, "{found:#}");
    }
    for (program, has_value) in [("copier_of_short_pages", true), ("copier_of_long_pages", false)] {
        let directory = Directory::new(program);
        let shop = Shop::open(program, &directory);
        shop.until_succeeded("copies", 1);
        shop.kill();
        let (code, found) = rereact(program, &directory, &[]);
        assert_eq!((code, number(&found, "differ")), (0, 0), "{found:#}");
        assert_eq!(found["missing"].get("payloads").is_none(), has_value, "{found:#}");
    }
}

fn journals_that_cannot_be_read_are_refused() {
    let directory = clerk("refused");
    let refuses = |program: &str, parts: &[&str]| {
        let (code, said) = command(program, &directory, &["rereact"]);
        assert_eq!(code, Some(1), "{said}");
        parts.iter().for_each(|part| assert!(said.contains(part), "{part:?} is not in {said}"));
    };
    // A program with a Work of the same name and another state.
    refuses("library_of_short_pages", &["length"]);
    let shop = Shop::open("clerk", &directory);
    refuses("clerk", &["is held by"]);
    // All is in the file then.
    shop.close();
    let file = directory.join("journal/journal.db");
    let sound = std::fs::read(&file).expect("it can be read");
    let mut damaged = sound.clone();
    let middle = damaged.len() / 2;
    damaged[middle..].iter_mut().for_each(|byte| *byte ^= 0x55);
    std::fs::write(&file, &damaged).expect("it can be written");
    refuses("clerk", &["journal.db is damaged"]);
    std::fs::write(&file, b"a text, and no database, of more than a hundred bytes: ".repeat(4))
        .expect("it can be written");
    refuses("clerk", &["journal.db"]);
    std::fs::remove_dir_all(directory.join("journal")).expect("it can be removed");
    refuses("clerk", &["there is no journal in"]);
}

/// Fields that one of two editions lacks are no difference; a Work that one of them lacks is.
fn editions_are_compared_field_by_field() {
    let directory = Directory::new("rereact-editions");
    let shop = Shop::open("first", &directory);
    shop.until_open(2, 1);
    shop.close();
    for edition in ["first", "with_defaults", "fields_removed"] {
        let (code, found) = rereact(edition, &directory, &[]);
        assert_eq!((code, number(&found, "differ")), (0, 0), "{edition}: {found:#}");
        assert!(number(&found, "reactions") > number(&found, "not_recorded_in_full"), "{edition}: {found:#}");
    }
    let (code, found) = rereact("work_added", &directory, &[]);
    assert_eq!(code, 1);
    for item in found["items"].as_array().expect("there are items") {
        let now = texts(item, "now");
        assert!(now.contains(&"run(1) of third") && now.contains(&"run(2) of third"), "{item:#}");
    }
    let (code, said) = command("work_field_changed", &directory, &["rereact"]);
    assert!(code == Some(1) && said.contains("`first`") && said.contains("label"), "{said}");
}

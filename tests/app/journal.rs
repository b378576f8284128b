//! The journal of an App that has ended, read and changed by the commands of its program.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use flowright::prelude::*;
use serde_json::Value as Json;

use crate::programs;
use crate::support::*;
use crate::tests;

tests![
    history_tells_in_words_what_happened,
    history_is_paged_by_position,
    state_is_shown_as_it_was_at_each_position,
    causes_of_a_run_lead_back_to_the_start,
    check_finds_what_has_changed_in_the_program,
    check_refuses_what_the_program_cannot_read,
    check_and_repair_name_what_is_damaged,
    journal_of_a_newer_format_ends_with_78,
    dropped_work_begins_anew,
    fork_continues_from_an_old_moment,
    commands_say_what_is_wrong,
    moved_works_continue_at_their_new_paths,
    move_is_made_once,
    running_app_tells_its_past,
    running_app_compares_moments,
    running_app_tells_what_led_to_a_run,
    running_app_refuses_moments_that_are_gone,
    app_without_a_journal_has_no_past,
];

/// Makes parts, one for each run.
#[derive(Default, Serialize, Deserialize)]
struct Maker {
    made: Vec<String>,
    #[serde(default)]
    note: u32,
}

impl Work for Maker {
    type Input = String;

    async fn run(&mut self, part: String, cx: &mut WorkContext<Self>) -> Result<()> {
        self.made.push(part);
        cx.publish(self);
        Ok(())
    }
}

/// Uses parts.
#[derive(Default, Serialize, Deserialize)]
struct User {
    used: u32,
}

impl Work for User {
    type Input = String;

    async fn run(&mut self, part: String, _: &mut WorkContext<Self>) -> Result<()> {
        ensure!(part != "bad", "the part is bad");
        self.used += 1;
        Ok(())
    }
}

/// Makes `good`, uses it, then makes and uses `bad`, which fails, and ends.
#[derive(Default, Serialize, Children)]
struct Line {
    rounds: u32,
    maker: WorkRef<Maker>,
    user: WorkRef<User>,
}

impl Flow for Line {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        self.rounds = self.maker.made.len() as u32;
        self.maker.run("good".to_owned()).finished()?;
        self.user.run("good".to_owned()).finished()?;
        self.maker.run("bad".to_owned()).finished()?;
        let last = self.user.run("bad".to_owned());
        if last.status().stage.is_terminal() {
            cx.stop("all parts were used");
        }
        Ok(())
    }
}

fn line() -> Line {
    Line {
        rounds: 0,
        maker: WorkRef::default(),
        user: WorkRef::new(User::default()).on_error(OnError::Capture),
    }
}

/// The program after some changes: fields added, removed and renamed, and a Work less.
mod changed {
    use super::*;

    #[derive(Default, Serialize, Deserialize)]
    pub(super) struct Maker {
        #[serde(alias = "made")]
        parts: Vec<String>,
        #[serde(default)]
        colour: String,
    }

    impl Work for Maker {
        type Input = String;

        async fn run(&mut self, _: String, _: &mut WorkContext<Self>) -> Result<()> {
            self.colour.clear();
            self.parts.clear();
            Ok(())
        }
    }

    #[derive(Default, Serialize, Children)]
    pub(super) struct Line {
        #[serde(default)]
        weeks: u32,
        maker: WorkRef<Maker>,
    }

    impl Flow for Line {
        fn react(&mut self, _: &mut FlowContext) -> Reaction {
            Ok(())
        }
    }
}

/// The program with a field of another type.
mod unfit {
    use super::*;

    #[derive(Default, Serialize, Deserialize)]
    pub(super) struct Maker {
        made: u32,
    }

    impl Work for Maker {
        type Input = String;

        async fn run(&mut self, _: String, _: &mut WorkContext<Self>) -> Result<()> {
            self.made += 1;
            Ok(())
        }
    }

    #[derive(Default, Serialize, Children)]
    pub(super) struct Line {
        #[serde(default)]
        rounds: u32,
        maker: WorkRef<Maker>,
    }

    impl Flow for Line {
        fn react(&mut self, _: &mut FlowContext) -> Reaction {
            Ok(())
        }
    }
}

/// The line without an end.
mod open {
    use super::*;

    #[derive(Serialize, Children)]
    pub(super) struct OpenLine {
        maker: WorkRef<Maker>,
        user: WorkRef<User>,
    }

    impl Flow for OpenLine {
        fn react(&mut self, _: &mut FlowContext) -> Reaction {
            self.maker.run("good".to_owned()).finished()?;
            self.user.run("good".to_owned()).finished()?;
            self.maker.run("last".to_owned());
            Ok(())
        }
    }

    pub(super) fn line() -> OpenLine {
        OpenLine { maker: WorkRef::default(), user: WorkRef::default() }
    }
}

/// A program before and after its Works were moved: `maker` into a new Flow, `user` into a map, and the Flow `old`, which
/// has children in a list, as a whole.
mod moves {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Default, Serialize, Children)]
    pub(super) struct Crew {
        rounds: u32,
        members: Vec<WorkRef<User>>,
    }

    impl Flow for Crew {
        fn react(&mut self, _: &mut FlowContext) -> Reaction {
            while self.members.len() < 2 {
                self.members.push(WorkRef::new(User::default()));
            }
            for (number, member) in self.members.iter_mut().enumerate() {
                member.run(format!("for member {number}"));
            }
            self.rounds += 1;
            Ok(())
        }
    }

    #[derive(Default, Serialize, Children)]
    pub(super) struct Before {
        maker: WorkRef<Maker>,
        user: WorkRef<User>,
        old: FlowRef<Crew>,
    }

    impl Flow for Before {
        fn react(&mut self, cx: &mut FlowContext) -> Reaction {
            let made = self.maker.run("one".to_owned()).finished().is_ok();
            let used = self.user.run("one".to_owned()).finished().is_ok();
            let members = &self.old.members;
            if made && used && members.len() == 2 && members.iter().all(|member| member.used == 1) {
                cx.stop("all is done");
            }
            Ok(())
        }
    }

    #[derive(Default, Serialize, Children)]
    pub(super) struct Team {
        plan: String,
        maker: WorkRef<Maker>,
    }

    impl Flow for Team {
        fn react(&mut self, _: &mut FlowContext) -> Reaction {
            self.plan = "as before".to_owned();
            self.maker.run("one".to_owned());
            Ok(())
        }
    }

    #[derive(Default, Serialize, Children)]
    pub(super) struct After {
        team: FlowRef<Team>,
        users: BTreeMap<String, WorkRef<User>>,
        new: FlowRef<Crew>,
    }

    impl Flow for After {
        fn react(&mut self, cx: &mut FlowContext) -> Reaction {
            self.users.entry("first".to_owned()).or_default().run("one".to_owned());
            let is_done = self.team.maker.made.len() == 1 && self.users["first"].used == 1;
            if is_done && self.team.plan == "as before" && self.new.rounds > 0 {
                cx.stop("all was done before");
            }
            Ok(())
        }
    }
}

/// Runs a program of this file.
pub(crate) fn run_program(program: &str) -> Option<ExitCode> {
    Some(match program {
        "line" => App::new(line).main(),
        "open_line" => App::new(open::line).main(),
        "before" => App::new(moves::Before::default).main(),
        "after" => {
            let app = App::new(moves::After::default).moved("maker", "team.maker");
            app.moved("user", "users.first").moved("old", "new").main()
        }
        "line_changed" => App::new(changed::Line::default).main(),
        "line_unfit" => App::new(unfit::Line::default).main(),
        _ => return None,
    })
}

/// A directory that is deleted on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("flowright-tools-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a directory for files can be made");
        Self(path)
    }

    fn join(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn call(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("the path of the test binary is known"));
    command.env(programs::VARIABLE, program).args(arguments).stdin(Stdio::null());
    command.output().expect("the test's own binary starts")
}

/// Calls a command of `line` that succeeds, and returns what it writes.
#[track_caller]
fn said(arguments: &[&str]) -> String {
    let output = call("line", arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("valid UTF-8")
}

#[track_caller]
fn json(arguments: &[&str]) -> Json {
    let text = said(arguments);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// Calls a command that fails with this exit code, and returns all that it writes.
#[track_caller]
fn refused(program: &str, arguments: &[&str], code: i32) -> String {
    let output = call(program, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs `line` to its end in a directory of its own.
fn recorded(name: &str) -> (Scratch, String) {
    let scratch = Scratch::new(name);
    let dir = scratch.join("journal");
    run_line(&dir);
    (scratch, dir)
}

fn run_line(dir: &str) {
    let app = Process::start("line", &["--without-server", "--journal", dir]);
    let (code, lines) = app.end();
    assert_eq!(code, Some(0), "{lines:#?}");
}

/// Returns the position at the beginning of the first line that contains `part`.
#[track_caller]
fn position_of(lines: &str, part: &str) -> u64 {
    let line = lines.lines().find(|line| line.contains(part));
    let line = line.unwrap_or_else(|| panic!("{part:?} is not in {lines}"));
    let word = line.split_whitespace().find_map(|word| word.parse().ok());
    word.unwrap_or_else(|| panic!("{line:?} has no position"))
}

#[track_caller]
fn assert_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let (_, after) =
            rest.split_once(part).unwrap_or_else(|| panic!("{part:?} does not follow in {text}"));
        rest = after;
    }
}

/// `history` tells of joins, requests, starts, changes of fields, and ends with input and error, in their order.
fn history_tells_in_words_what_happened() {
    let (_scratch, dir) = recorded("history");
    let text = said(&["journal", "history", &dir]);
    let parts = [
        "root  the journal was opened",
        "root  the App began, with the root",
        "maker  joined",
        "user  joined",
        "maker  run requested with \"good\"",
        "maker  state: made",
        "user  run requested with \"good\"",
        "user  state: used = 1",
        "user  run 1 succeeded",
        "maker  run requested with \"bad\"",
        "user  run requested with \"bad\"",
        "user  run 2 failed",
        "input \"bad\": error: the part is bad",
    ];
    assert_order(&text, &parts);
    assert_eq!(text.matches("run requested").count(), 4, "{text}");
    assert_eq!(text.matches("joined").count(), 2, "{text}");
    let of_user = said(&["journal", "history", &dir, "user"]);
    assert!(of_user.lines().all(|line| line.contains("  user  ")), "{of_user}");
    assert_eq!(of_user.matches("run requested").count(), 2, "{of_user}");
    let items = json(&["journal", "history", &dir, "user", "--json"]);
    let ends: Vec<_> =
        items["items"].as_array().unwrap().iter().filter(|it| it["event"] == "run_ended").collect();
    assert_eq!(ends.len(), 2, "{items}");
    assert_eq!(
        (&ends[1]["stage"], &ends[1]["input"], &ends[1]["run"]),
        (&"failed".into(), &"bad".into(), &2.into())
    );
}

/// Pages of any size, forwards and backwards, have the same events as one page.
fn history_is_paged_by_position() {
    let (_scratch, dir) = recorded("pages");
    let of = |page: &Json| -> Vec<Json> {
        let items = page["items"].as_array().unwrap().iter();
        items.filter(|item| item["event"] != "opened").cloned().collect()
    };
    let all = of(&json(&["journal", "history", &dir, "--limit", "0", "--json"]));
    assert!(all.len() > 10, "{all:#?}");
    let (mut forwards, mut from) = (Vec::new(), Some(0));
    while let Some(position) = from {
        let page =
            json(&["journal", "history", &dir, "--from", &position.to_string(), "--limit", "1", "--json"]);
        forwards.extend(of(&page));
        from = page["newer"].as_u64();
    }
    assert_eq!(forwards, all);
    let (mut backwards, mut to) = (Vec::new(), Some(u64::from(u32::MAX)));
    while let Some(position) = to {
        let page =
            json(&["journal", "history", &dir, "--to", &position.to_string(), "--limit", "3", "--json"]);
        backwards.splice(0..0, of(&page));
        to = page["older"].as_u64();
    }
    assert_eq!(backwards, all);
}

/// `state` and `diff` show the tree of states as it was at a position or a time.
fn state_is_shown_as_it_was_at_each_position() {
    let (_scratch, dir) = recorded("state");
    let last = json(&["journal", "state", &dir, "--json"]);
    assert_eq!(last["state"]["user"]["used"], 1);
    assert_eq!(last["state"]["maker"]["made"], serde_json::json!(["good", "bad"]));
    assert_eq!(last["state"]["rounds"], 2);
    let history = said(&["journal", "history", &dir]);
    let used = position_of(&history, "user  state: used = 1");
    assert_eq!(said(&["journal", "state", &dir, "user.used", "--at", &used.to_string()]), "1\n");
    let before = position_of(&history, "user  run requested");
    let early = json(&["journal", "state", &dir, "--at", &before.to_string(), "--json"]);
    assert_eq!((&early["state"]["user"]["used"], &early["position"]), (&0.into(), &before.into()));
    let at_time = json(&["journal", "state", &dir, "--at", last["time"].as_str().unwrap(), "--json"]);
    assert!(at_time["position"].as_u64().unwrap() >= used, "{at_time}");
    let diff = said(&["journal", "diff", &dir, &before.to_string(), &used.to_string()]);
    assert!(diff.contains("user.used: 0 -> 1"), "{diff}");
    let same = said(&["journal", "diff", &dir, &used.to_string(), &used.to_string()]);
    assert!(same.contains("are the same"), "{same}");
}

/// `why` follows a run over the runs and states that led to its request, back to the first run.
fn causes_of_a_run_lead_back_to_the_start() {
    let (_scratch, dir) = recorded("why");
    let text = said(&["journal", "why", &dir, "user", "2"]);
    let parts = [
        "run 2 of user",
        "run requested with \"bad\"",
        "because",
        "maker  run 2 succeeded",
        "run 2 of maker",
        "because",
        "user  run 1 succeeded",
        "run 1 of user",
        "because",
        "maker  run 1 succeeded",
        "run 1 of maker",
        "run requested with \"good\"",
        "because",
        "the App began",
    ];
    assert_order(&text, &parts);
    let chain = json(&["journal", "why", &dir, "user", "2", "--json"]);
    assert_eq!(chain["items"].as_array().unwrap().len(), 4, "{chain}");
}

/// `check` with another version of the program lists fields that were added, removed and renamed, and Works that are
/// parked, and changes nothing.
fn check_finds_what_has_changed_in_the_program() {
    let (_scratch, dir) = recorded("changed");
    let before = std::fs::read(Path::new(&dir).join("journal.db")).unwrap();
    let text = said(&["journal", "check", &dir]);
    assert!(
        text.contains("recorded: 2 Works, 1 Flows") && text.contains("this program can take over"),
        "{text}"
    );
    let output = call("line_changed", &["journal", "check", &dir]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    let parts = [
        "added: root: weeks\n",
        "added: maker: colour\n",
        "removed: root: rounds\n",
        "removed: maker: note\n",
        "renamed: maker: made -> parts\n",
        "parked: user\n",
    ];
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert_eq!(std::fs::read(Path::new(&dir).join("journal.db")).unwrap(), before);
}

/// `check` ends with 1 and names the field when the program cannot read what is recorded.
fn check_refuses_what_the_program_cannot_read() {
    let (_scratch, dir) = recorded("unfit");
    let text = refused("line_unfit", &["journal", "check", &dir], 1);
    assert!(text.contains("refused: work `maker` cannot be restored"), "{text}");
    assert!(text.contains("made") && text.contains("this program cannot take over"), "{text}");
    assert!(text.contains("with --on-mismatch park: `maker` begins anew, because work `maker`"), "{text}");
    assert!(
        text.contains("the record is parked at `maker~") && text.contains("--on-mismatch fresh"),
        "{text}"
    );
}

/// `check` names damage, and `repair` saves the rest to a journal with which the App goes on.
fn check_and_repair_name_what_is_damaged() {
    let (scratch, dir) = recorded("damaged");
    let file = Path::new(&dir).join("journal.db");
    let mut bytes = std::fs::read(&file).unwrap();
    let needle = b"the part is bad";
    let places: Vec<_> =
        (0..bytes.len() - needle.len()).filter(|at| bytes[*at..].starts_with(needle)).collect();
    assert!(!places.is_empty(), "the error is recorded");
    for at in places {
        bytes[at] = b'T';
    }
    std::fs::write(&file, bytes).unwrap();
    let text = refused("line", &["journal", "check", &dir], 1);
    assert!(text.contains("damaged: ") && text.contains("journal repair"), "{text}");
    let into = scratch.join("repaired");
    let text = said(&["journal", "repair", &dir, "--into", &into]);
    assert!(text.contains("saved ") && text.contains("lost: "), "{text}");
    let text = said(&["journal", "check", &into]);
    assert!(text.contains("this program can take over"), "{text}");
    let again = refused("line", &["journal", "repair", &dir, "--into", &into], 1);
    assert!(again.contains("cannot create"), "{again}");
}

/// A journal of a newer format ends `check` with 78 and names both versions.
fn journal_of_a_newer_format_ends_with_78() {
    let (_scratch, dir) = recorded("newer");
    let file = Path::new(&dir).join("journal.db");
    let mut bytes = std::fs::read(&file).unwrap();
    // `user_version` in the header of a SQLite file.
    bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
    std::fs::write(&file, bytes).unwrap();
    for command in [
        &["journal", "check", &dir][..],
        &["journal", "history", &dir],
        &["run", "--without-server", "--journal", &dir],
    ] {
        let text = refused("line", command, 78);
        assert!(text.contains("format 99") && text.contains("formats up to 3"), "{text}");
    }
}

/// A Work that was dropped begins with nothing, and the rest of the App goes on as it was.
fn dropped_work_begins_anew() {
    let (_scratch, dir) = recorded("drop");
    let text = refused("line", &["journal", "drop", &dir, "nobody"], 1);
    assert!(text.contains("nothing is recorded of `nobody`; there are maker, user"), "{text}");
    assert_eq!(said(&["journal", "drop", &dir, "user"]), "dropped user\n");
    let text = said(&["journal", "check", &dir]);
    assert!(text.contains("recorded: 1 Works, 1 Flows") && text.contains("can take over"), "{text}");
    run_line(&dir);
    let history = said(&["journal", "history", &dir, "--limit", "0"]);
    assert_order(&history, &["user  run 2 failed", "user  left", "user  joined", "user  run 1 succeeded"]);
    assert_eq!(
        history.matches("maker  run requested").count(),
        2,
        "the runs of `maker` are remembered: {history}"
    );
}

/// `fork` makes the journal of another App, which goes on from the old moment; the first one stays as it is.
fn fork_continues_from_an_old_moment() {
    let (scratch, dir) = recorded("fork");
    let history = said(&["journal", "history", &dir]);
    let at = position_of(&history, "user  run 1 succeeded").to_string();
    let into = scratch.join("fork");
    let text = said(&["journal", "fork", &dir, "--at", &at, "--into", &into]);
    assert!(text.contains(&format!("as it was at position {at} ")), "{text}");
    let (old, new) = (said(&["journal", "check", &dir]), said(&["journal", "check", &into]));
    let app = |text: &str| text.split("App: ").nth(1).unwrap()[..32].to_owned();
    assert_ne!(app(&old), app(&new));
    let state = |dir: &str| json(&["journal", "state", dir, "--json"])["state"].clone();
    assert_eq!(state(&into)["user"]["used"], 1);
    run_line(&into);
    assert_eq!(state(&into), state(&dir));
    let history = said(&["journal", "history", &into]);
    assert_eq!(history.matches("maker  run 1 succeeded").count(), 0, "{history}");
    assert_eq!(history.matches("user  run 2 failed").count(), 1, "{history}");
    let text =
        refused("line", &["journal", "fork", &dir, "--at", "999999", "--into", &scratch.join("other")], 1);
    assert!(text.contains("position 999999 is not in the journal"), "{text}");
}

/// Wrong directories, moments and runs are named with what to do.
fn commands_say_what_is_wrong() {
    let (scratch, dir) = recorded("wrong");
    let nowhere = scratch.join("nowhere");
    for command in [&["check"][..], &["history"], &["state"], &["drop", "a"]] {
        let text = refused("line", &[&["journal", command[0], &nowhere], &command[1..]].concat(), 1);
        assert!(text.contains("there is no journal in"), "{text}");
    }
    let text = refused("line", &["journal", "why", &dir, "user", "9"], 1);
    assert!(text.contains("no run 9 of `user`"), "{text}");
    let text = refused("line", &["journal", "state", &dir, "nobody"], 1);
    assert!(text.contains("has nothing at `nobody`"), "{text}");
    let text = refused("line", &["journal", "state", &dir, "--at", "soon"], 2);
    assert!(text.contains("write a position such as 17"), "{text}");
    let text = refused("line", &["journal", "state", &dir, "--at", "2001-01-01T00:00:00Z"], 1);
    assert!(text.contains("begins after 2001-01-01"), "{text}");
}

fn run_to_end(program: &str, dir: &str) {
    let app = Process::start(program, &["--without-server", "--journal", dir]);
    let (code, lines) = app.end();
    assert_eq!(code, Some(0), "{lines:#?}");
}

/// Works and a Flow that were moved keep their states, and inputs that have succeeded do not run again.
fn moved_works_continue_at_their_new_paths() {
    let scratch = Scratch::new("moved");
    let dir = scratch.join("journal");
    run_to_end("before", &dir);
    let output = call("after", &["journal", "check", &dir]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && !text.contains("parked"), "{output:?}");
    run_to_end("after", &dir);
    let state = json(&["journal", "state", &dir, "--json"])["state"].clone();
    assert_eq!(state["team"]["maker"]["made"], serde_json::json!(["one"]), "{state}");
    assert_eq!(state["team"]["plan"], "as before");
    assert_eq!(state["users"]["first"]["used"], 1, "{state}");
    let members: Vec<_> = state["new"]["members"].as_array().unwrap().iter().map(|it| &it["used"]).collect();
    assert_eq!(members, [1, 1], "{state}");
    assert!(state.get("maker").is_none() && state.get("old").is_none(), "{state}");
    let history = said(&["journal", "history", &dir, "--limit", "0"]);
    let left = |path: &str| history.contains(&format!("  {path}  left\n"));
    assert!(["maker", "user", "old", "old.members.0", "old.members.1"].into_iter().all(left), "{history}");
    assert_eq!(history.matches("run requested").count(), 4, "{history}");
}

/// A program with a move starts any number of times, and a Work that is at the old path later is another one.
fn move_is_made_once() {
    let scratch = Scratch::new("once");
    let dir = scratch.join("journal");
    run_to_end("before", &dir);
    run_to_end("after", &dir);
    let moved = said(&["journal", "history", &dir, "--limit", "0"]).matches("left").count();
    run_to_end("after", &dir);
    let history = said(&["journal", "history", &dir, "--limit", "0"]);
    assert_eq!(history.matches("left").count(), moved, "{history}");
    assert_eq!(history.matches("run requested").count(), 4, "{history}");
    let state = json(&["journal", "state", &dir, "--json"])["state"].clone();
    assert_eq!(state["team"]["maker"]["made"], serde_json::json!(["one"]), "{state}");
}

/// A running App answers with pages of its history and with old states, over HTTP and by commands.
fn running_app_tells_its_past() {
    let scratch = Scratch::new("running");
    let dir = scratch.join("journal");
    let mut app = Process::start("open_line", &["--port", "0", "--journal", &dir]);
    let address = app.address();
    let done = |events: &Json| {
        let items = events["items"].as_array().unwrap();
        items
            .iter()
            .any(|item| item["path"] == "maker" && item["text"].as_str().unwrap().starts_with("run 2 succ"))
    };
    let mut events = Events::open(address);
    events.until(|document| document["works"]["maker"]["runs"]["succeeded"] == 2);
    let all = get(address, "/api/v1/history?limit=1000");
    assert_eq!(all.status, 200, "{all:?}");
    let all = all.json();
    assert!(done(&all), "what was shown is durable: {all}");
    assert_eq!((&all["older"], &all["newer"]), (&Json::Null, &Json::Null));
    let (mut forwards, mut from) = (Vec::new(), Some(0));
    while let Some(position) = from {
        let page = get(address, &format!("/api/v1/history?from={position}&limit=2")).json();
        forwards.extend(page["items"].as_array().unwrap().clone());
        from = page["newer"].as_u64();
    }
    assert_eq!(&forwards, all["items"].as_array().unwrap());
    let of_user = get(address, "/api/v1/history?path=user").json();
    let items = of_user["items"].as_array().unwrap();
    assert!(!items.is_empty() && items.iter().all(|item| item["path"] == "user"), "{of_user}");
    let request = items.iter().find(|item| item["event"] == "run_requested").expect("it was requested");
    let at = request["position"].as_u64().unwrap();
    let then = get(address, &format!("/api/v1/state?at={at}")).json();
    assert_eq!((&then["state"]["user"]["used"], &then["position"]), (&0.into(), &at.into()), "{then}");
    let now = get(address, "/api/v1/state").json();
    assert_eq!(now["state"]["user"]["used"], 1);
    let by_time = then["time"].as_str().unwrap().replace(':', "%3A");
    assert_eq!(get(address, &format!("/api/v1/state?path=user&at={by_time}")).status, 200);
    for (query, status) in [
        ("history?limit=0", 400),
        ("history?from=x", 400),
        ("state?at=soon", 400),
        ("state?at=999999", 404),
        ("state?at=2001-01-01T00:00:00Z", 404),
        ("state?path=nobody&at=1", 404),
    ] {
        let answer = get(address, &format!("/api/v1/{query}"));
        assert_eq!(answer.status, status, "{query}: {answer:?}");
    }
    let url = address.to_string();
    let command = |arguments: &[&str]| {
        let output = call("open_line", &[arguments, &["--url", &url]].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("valid UTF-8")
    };
    let text = command(&["history", "user"]);
    assert_order(&text, &["user  joined", "user  run requested with \"good\"", "user  run 1 succeeded"]);
    assert_eq!(command(&["state", "user.used", "--at", &at.to_string()]), "0\n");
    assert_eq!(command(&["state", "user.used"]), "1\n");
    app.signal("INT");
    assert_eq!(app.end().0, Some(0));
}

/// A running App whose Works have ended their runs, with the journal's directory and a runner of its commands.
struct Running {
    app: Process,
    address: SocketAddr,
    _scratch: Scratch,
    dir: String,
}

impl Running {
    fn start(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let dir = scratch.join("journal");
        let mut app = Process::start("open_line", &["--port", "0", "--journal", &dir]);
        let address = app.address();
        Events::open(address).until(|document| document["works"]["maker"]["runs"]["succeeded"] == 2);
        Self { app, address, _scratch: scratch, dir }
    }

    fn get(&self, query: &str) -> Json {
        let answer = get(self.address, &format!("/api/v1/{query}"));
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        answer.json()
    }

    /// Calls a command that succeeds, and returns what it writes.
    #[track_caller]
    fn said(&self, arguments: &[&str]) -> String {
        let output = call("open_line", &[arguments, &["--url", &self.address.to_string()]].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("valid UTF-8")
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let url = self.address.to_string();
        refused("open_line", &[arguments, &["--url", &url]].concat(), 1)
    }

    /// Returns the position of the first event of a Work of this kind.
    #[track_caller]
    fn position_of(&self, work: &str, event: &str) -> u64 {
        let history = self.get(&format!("history?path={work}&limit=1000"));
        let mut items = history["items"].as_array().unwrap().iter();
        let found = items.find(|item| item["event"] == event);
        found.unwrap_or_else(|| panic!("no {event} in {history}"))["position"].as_u64().unwrap()
    }

    /// Ends the App, and returns the journal's directory with what removes it.
    fn end(self) -> (Scratch, String) {
        self.app.signal("INT");
        assert_eq!(self.app.end().0, Some(0));
        (self._scratch, self.dir)
    }
}

/// A running App compares two moments: in pages that are those of one answer together, at a path, up to now, and with the
/// words of the command for its journal.
fn running_app_compares_moments() {
    let app = Running::start("compares");
    let before = app.position_of("user", "run_requested");
    let whole = app.get(&format!("diff?from={before}"));
    let (from, to) = (&whole["from"]["position"], whole["to"]["position"].as_u64().unwrap());
    assert!(*from == before && to > before && whole["next"].is_null(), "{whole}");
    let items = whole["items"].as_array().unwrap();
    let item = |kind: &str, path: &str| {
        let found = items.iter().find(|item| item["kind"] == kind && item["path"] == path);
        found.unwrap_or_else(|| panic!("no {kind} of {path} in {whole}")).clone()
    };
    assert_eq!(item("stage", "user")["after"], "succeeded");
    let used = item("state", "user.used");
    assert_eq!((&used["before"], &used["after"]), (&0.into(), &1.into()));
    let made = item("state", "maker.made.1");
    assert_eq!((made.get("before"), &made["after"]), (None, &"last".into()));
    let (mut paged, mut after) = (Vec::new(), Some(0));
    while let Some(skipped) = after {
        let page = app.get(&format!("diff?from={before}&to={to}&after={skipped}&limit=1"));
        assert_eq!((&page["total"], &page["to"]), (&whole["total"], &whole["to"]));
        paged.extend(page["items"].as_array().unwrap().clone());
        after = page["next"].as_u64();
    }
    assert_eq!(&paged, items);
    let of_user = app.get(&format!("diff?from={before}&path=user"));
    let paths: Vec<_> = of_user["items"].as_array().unwrap().iter().map(|it| it["path"].clone()).collect();
    assert!(
        !paths.is_empty() && paths.iter().all(|path| path.as_str().unwrap().starts_with("user")),
        "{of_user}"
    );
    let same = app.get(&format!("diff?from={to}&to={to}"));
    assert_eq!((same["items"].as_array().unwrap().len(), &same["total"]), (0, &0.into()));
    let time = whole["from"]["time"].as_str().unwrap();
    app.get(&format!("diff?from={}", time.replace(':', "%3A")));
    let (a, b) = (before.to_string(), to.to_string());
    let text = app.said(&["diff", &a, &b]);
    assert!(text.contains("user.used: 0 -> 1\n") && text.contains("maker.made.1: - -> \"last\"\n"), "{text}");
    assert_eq!(app.said(&["diff", &a, "--path", "user.used"]), "user.used: 0 -> 1\n");
    let document = app.said(&["diff", &a, &b, "--json"]);
    let (_scratch, dir) = app.end();
    assert_eq!(said(&["journal", "diff", &dir, &a, &b]), text);
    assert_eq!(said(&["journal", "diff", &dir, &a, &b, "--json"]), document);
    assert_eq!(said(&["journal", "diff", &dir, &a, &b, "--path", "user.used"]), "user.used: 0 -> 1\n");
}

/// A running App tells the chain of runs that led to one, in pages, with the words of the command for its journal.
fn running_app_tells_what_led_to_a_run() {
    let app = Running::start("tells-why");
    let whole = app.get("why?work=maker&run=2");
    let items = whole["items"].as_array().unwrap();
    let runs: Vec<_> =
        items.iter().map(|item| (item["path"].as_str().unwrap(), item["run"].as_u64())).collect();
    assert_eq!(runs, [("maker", Some(2)), ("user", Some(1)), ("maker", Some(1))], "{whole}");
    let request = &items[0]["request"];
    assert_eq!((&request["event"], &request["input"]), (&"run_requested".into(), &"last".into()));
    let cause = items[0]["causes"].as_array().unwrap().last().unwrap();
    assert_eq!((&cause["event"], &cause["path"]), (&"run_ended".into(), &"user".into()));
    let (mut paged, mut query) = (Vec::new(), "why?work=maker&run=2&limit=1".to_owned());
    loop {
        let page = app.get(&query);
        paged.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        query = format!("why?work=maker&run=2&limit=1&cursor={next}");
    }
    assert_eq!(&paged, items);
    for (query, status) in [
        ("why?work=maker&run=9", 404),
        ("why?work=nobody&run=1", 404),
        ("why?work=maker", 400),
        ("why?work=maker&run=x", 400),
        ("why?work=maker&run=1&limit=0", 400),
        ("why?work=maker&run=1&cursor=soon", 400),
    ] {
        let answer = get(app.address, &format!("/api/v1/{query}"));
        assert_eq!(answer.status, status, "{query}: {answer:?}");
    }
    let text = app.said(&["why", "maker", "2"]);
    assert_order(
        &text,
        &["run 2 of maker", "because", "user  run 1 succeeded", "run 1 of user", "run 1 of maker"],
    );
    let document = app.said(&["why", "maker", "2", "--json"]);
    assert!(app.refused(&["why", "maker", "9"]).contains("no run 9 of `maker`"));
    let (_scratch, dir) = app.end();
    assert_eq!(said(&["journal", "why", &dir, "maker", "2"]), text);
    assert_eq!(said(&["journal", "why", &dir, "maker", "2", "--json"]), document);
}

/// Moments that are wrong, or that the journal does not have any more, are refused with what it has.
fn running_app_refuses_moments_that_are_gone() {
    let app = Running::start("gone");
    for (query, status, part) in [
        ("diff", 400, "from"),
        ("diff?from=soon", 400, "`from`: write a position such as 17"),
        ("diff?from=1&to=soon", 400, "`to`: write a position such as 17"),
        ("diff?from=1&limit=0", 400, "`limit`"),
        ("diff?from=1&limit=10001", 400, "`limit`"),
        ("diff?from=1&more=1", 400, "more"),
        ("diff?from=999999", 404, "position 999999 is not in the journal, which has the positions 0 to"),
        ("diff?from=1&to=999999", 404, "position 999999"),
        ("diff?from=2001-01-01T00:00:00Z", 404, "the journal begins after that time"),
        ("diff?from=1&path=nobody", 404, "there is nothing at `nobody`"),
    ] {
        let answer = get(app.address, &format!("/api/v1/{query}"));
        assert_eq!(answer.status, status, "{query}: {answer:?}");
        assert!(answer.body.contains(part), "{query}: {answer:?}");
    }
    assert!(app.refused(&["diff", "999999"]).contains("position 999999 is not in the journal"));
    let (scratch, dir) = app.end();
    // Without a history, there is only now.
    let arguments = ["--port", "0", "--journal", &dir, "--journal-history", "0"];
    let mut process = Process::start("open_line", &arguments);
    let address = process.address();
    let same = loop {
        let gone = get(address, "/api/v1/diff?from=1");
        assert_eq!(gone.status, 404, "{gone:?}");
        let (_, newest) = gone.body.rsplit_once(" to ").expect("it names the positions");
        let newest: String = newest.chars().take_while(char::is_ascii_digit).collect();
        assert!(gone.body.contains(&format!("has the positions {newest} to {newest}")), "{gone:?}");
        let same = get(address, &format!("/api/v1/diff?from={newest}"));
        // The start may record something meanwhile.
        if same.status == 200 {
            break same.json();
        }
    };
    assert_eq!(same["total"], 0, "{same}");
    process.signal("INT");
    assert_eq!(process.end().0, Some(0));
    drop(scratch);
}

/// Without a journal, the past is answered with 404 and what to do.
fn app_without_a_journal_has_no_past() {
    let mut app = Process::start("open_line", &["--port", "0"]);
    let address = app.address();
    for query in ["history", "state?at=1", "diff?from=1", "why?work=maker&run=1"] {
        let answer = get(address, &format!("/api/v1/{query}"));
        assert_eq!(answer.status, 404, "{answer:?}");
        assert!(answer.body.contains("--journal DIR"), "{answer:?}");
    }
    let url = address.to_string();
    let text = refused("open_line", &["history", "--url", &url], 1);
    assert!(text.contains("this App has no journal"), "{text}");
}

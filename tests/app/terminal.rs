//! `top` in a terminal: a pseudo-terminal, and an emulator that knows the content of its screen.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::commands::desk;
use crate::programs;
use crate::support::LIMIT;
use crate::tests;

tests![top_shows_the_works_obeys_keys_fits_the_terminal_and_leaves_it_as_it_was];

/// A terminal in which a program runs.
struct Terminal {
    master: File,
    child: Child,
    output: Receiver<Vec<u8>>,
    screen: vt100::Parser,
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Terminal {
    fn start(arguments: &[&str], rows: u16, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are terminals");
        grantpt(&master).expect("the test owns the terminal");
        unlockpt(&master).expect("the test owns the terminal");
        let name = ptsname(&master, Vec::new()).expect("the terminal has a name");
        let open = || {
            let flags = OFlags::RDWR | OFlags::NOCTTY;
            File::from(rustix::fs::open(&name, flags, Mode::empty()).expect("it can be opened"))
        };
        tcsetwinsize(&master, size(rows, columns)).expect("terminals have sizes");
        // Without a session of its own the program gets no signal when the size changes.
        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .arg(std::env::current_exe().expect("the path of the test binary is known"))
            .args(arguments);
        command.env(programs::VARIABLE, "desk").env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let child = command.stdin(open()).stdout(open()).stderr(open()).spawn().expect("there is a setsid");
        drop(command);
        let master = File::from(master);
        let mut from = master.try_clone().expect("a terminal can be read");
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                // The receiver may be gone.
                let _ = sender.send(buffer[..read].to_vec());
            }
        });
        Self { master, child, output, screen: vt100::Parser::new(rows, columns, 0) }
    }

    /// Waits until `is_so` is true of the screen, and returns its lines.
    #[track_caller]
    fn until(&mut self, is_so: impl Fn(&vt100::Screen) -> bool) -> Vec<String> {
        let deadline = Instant::now() + LIMIT;
        while !is_so(self.screen.screen()) {
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.screen.process(&bytes),
                Err(_) => panic!("it is not so:\n{}", self.screen.screen().contents()),
            }
        }
        let (_, columns) = self.screen.screen().size();
        self.screen.screen().rows(0, columns).collect()
    }

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the program reads");
    }

    fn resize(&mut self, rows: u16, columns: u16) {
        self.screen.screen_mut().set_size(rows, columns);
        tcsetwinsize(&self.master, size(rows, columns)).expect("terminals have sizes");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The process may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shows(screen: &vt100::Screen, part: &str) -> bool {
    screen.contents().contains(part)
}

fn top_shows_the_works_obeys_keys_fits_the_terminal_and_leaves_it_as_it_was() {
    let app = desk();
    let mut terminal = Terminal::start(&["top", "--url", app.url()], 24, 110);
    let rows = terminal.until(|screen| shows(screen, "q quit") && shows(screen, "succeeded"));
    assert!(terminal.screen.screen().alternate_screen());
    assert!(rows[0].contains("Desk") && rows[0].contains("running"), "{rows:#?}");
    assert!(rows.iter().any(|row| row.starts_with("head") && row.contains("busy")), "{rows:#?}");
    let adder = rows.iter().find(|row| row.starts_with("adder")).expect("it is in the table");
    assert!(adder.contains("succeeded") && adder.contains("1 ok"), "{rows:#?}");
    assert!(rows[23].contains("sort by path"), "{rows:#?}");

    // The change is shown without a key press.
    app.refused(&["rerun", "adder", "-8"]);
    let rows = terminal.until(|screen| shows(screen, "less than nothing") && shows(screen, "1 failed"));
    assert!(rows.iter().any(|row| row.starts_with("adder") && row.contains("failed")), "{rows:#?}");
    terminal.press("s");
    terminal.until(|screen| shows(screen, "sort by stage"));

    terminal.resize(16, 60);
    let rows = terminal.until(|screen| {
        let last = screen.rows(0, 60).last();
        last.is_some_and(|row| row.starts_with("q quit"))
    });
    assert!(rows.iter().any(|row| row.starts_with("adder")), "{rows:#?}");

    terminal.press("q");
    terminal.until(|screen| !screen.alternate_screen() && !screen.hide_cursor());
    assert!(terminal.child.wait().expect("it can be waited for").success());
}

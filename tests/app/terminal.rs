//! Programs in a terminal: a pseudo-terminal, and an emulator that knows the content of its screen.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use crate::commands::desk;
use crate::programs;
use crate::support::LIMIT;
use crate::tests;

tests![
    top_shows_the_works_obeys_keys_fits_the_terminal_and_leaves_it_as_it_was,
    browser_opens_on_a_terminal_with_a_display_unless_turned_off,
];

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
        Self::start_with(arguments, &[], rows, columns)
    }

    /// Starts the program with these environment variables.
    fn start_with(arguments: &[&str], variables: &[(&str, &str)], rows: u16, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are terminals");
        grantpt(&master).expect("the test owns the terminal");
        unlockpt(&master).expect("the test owns the terminal");
        let name = ptsname(&master, Vec::new()).expect("the terminal has a name");
        let open = || {
            let flags = OFlags::RDWR | OFlags::NOCTTY;
            File::from(rustix::fs::open(&name, flags, Mode::empty()).expect("the terminal can be opened"))
        };
        tcsetwinsize(&master, size(rows, columns)).expect("terminals have sizes");
        // By default the system drops output after it has passed Ctrl-C on, with all that the program has said since.
        let mut modes = tcgetattr(&master).expect("terminals have modes");
        modes.local_modes |= LocalModes::NOFLSH;
        tcsetattr(&master, OptionalActions::Now, &modes).expect("terminals have modes");
        // Without a session of its own the program gets no signal when the size changes.
        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .arg(std::env::current_exe().expect("the path of the test binary is known"))
            .args(arguments);
        command.env(programs::VARIABLE, "desk").env("TERM", "xterm-256color").env_remove("NO_COLOR");
        for display in ["DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"] {
            command.env_remove(display);
        }
        command.envs(variables.iter().copied());
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
    let adder = rows.iter().find(|row| row.starts_with("adder")).expect("the table has the Work");
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
    assert!(terminal.child.wait().expect("the program has ended").success());
}

/// The browser is a script that writes its argument to the terminal. The log line about it tells how to turn it off.
fn browser_opens_on_a_terminal_with_a_display_unless_turned_off() {
    const STARTED: &str = "View it in your browser: http://127.0.0.1:";
    const HINT: &str = "--open-ui=false turns that off";
    const OPENED: &str = "the browser gets http://127.0.0.1:";
    let script = std::env::temp_dir().join(format!("flowright-browser-{}", std::process::id()));
    std::fs::write(&script, "#!/bin/sh\necho \"the browser gets $1\" >/dev/tty\n")
        .expect("the path is writable");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&script, mode).expect("the path belongs to the test");
    let browser = format!("{} %s", script.display());
    for (display, flag, opens, hints) in [
        (true, None, true, true),
        (false, None, false, false),
        (true, Some("--open-ui=false"), false, false),
        (false, Some("--open-ui"), true, false),
    ] {
        let mut variables = vec![("BROWSER", browser.as_str())];
        variables.extend(display.then_some(("DISPLAY", ":0")));
        let mut arguments = vec!["--port", "0"];
        arguments.extend(flag);
        let mut terminal = Terminal::start_with(&arguments, &variables, 24, 110);
        terminal.until(|screen| shows(screen, STARTED) && (!opens || shows(screen, OPENED)));
        // The program decides before it obeys this key.
        terminal.press("\x03");
        let rows = terminal.until(|screen| shows(screen, "has been stopped successfully"));
        let has = |part: &str| rows.iter().any(|row| row.contains(part));
        assert_eq!((has(OPENED), has(HINT)), (opens, hints), "{display} {flag:?}: {rows:#?}");
        assert!(terminal.child.wait().expect("the program has ended").success());
    }
    let _ = std::fs::remove_file(&script);
}

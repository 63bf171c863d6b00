//! `larder daemon --replace`: a new program takes over under readers and running programs; a downgrade is refused in
//! words and touches nothing.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::daemon::{kill, pid};
use crate::support::program::{Outcome, User, binary, command, run};
use crate::support::{self, Image, Larder, skip, tree};

const FILES: usize = 24;

/// What runs from the image: it reads every file, over and over, with another program of the image.
const SCRIPT: &str = r#"cd "$1" || exit 2
checked=0
while :; do
    while read -r sum name; do
        [ -e "$2/go" ] || exit 0
        found=$(bin/sha256sum < "$name") || { echo "$name: cannot be read" >&2; exit 3; }
        [ "$found" = "$sum  -" ] || { echo "$name: $found instead of $sum" >&2; exit 4; }
        checked=$((checked + 1))
        echo "$checked" > "$2/checked"
    done < sums
done
"#;

/// An image with programs in it, and files that they know the sums of.
fn image_with_programs(larder: &Larder) -> Image {
    let source = larder.dir("source");
    for n in 0..FILES {
        let seed = u64::try_from(n).expect("small");
        fs::write(source.join(format!("file-{n}")), tree::noise(seed, (1 << 20) + 4096 * n + n))
            .expect("a file");
    }
    let names: Vec<String> = (0..FILES).map(|n| format!("file-{n}")).collect();
    let sums = Command::new("sha256sum").args(&names).current_dir(&source).output().expect("coreutils");
    fs::write(source.join("sums"), sums.stdout).expect("a file");
    fs::create_dir(source.join("bin")).expect("a directory");
    for program in ["sh", "sha256sum"] {
        let found = support::program::tool(program).expect("every system has it");
        fs::copy(found, source.join("bin").join(program)).expect("it can be copied");
    }
    Image::build(larder, &source, "layout")
}

/// The program under test at another place, as another release would be.
fn another_binary(larder: &Larder, name: &str) -> PathBuf {
    let path = larder.path(name);
    fs::hard_link(binary(), &path)
        .or_else(|_| fs::copy(binary(), &path).map(drop))
        .expect("it can be copied");
    path
}

fn replace(larder: &Larder, program: &Path) -> Outcome {
    let mut command = command(User::Same, program);
    command.arg("--root").arg(larder.root()).args(["daemon", "--replace", "--json"]);
    run(command)
}

/// Show 3: once a second the worker is killed, or replaced by another program.
fn p4_a_program_from_the_image_does_not_notice(frontend: &str, lasts: Duration) {
    let test = format!("p4_a_program_from_the_image_does_not_notice ({frontend}, {lasts:?})");
    let larder = Larder::new(User::Same);
    if let Some(why) = larder.cannot(frontend) {
        return skip(&test, &why);
    }
    if let Some(why) = support::cannot_replace(frontend, true) {
        return skip(&test, why);
    }
    let image = image_with_programs(&larder);
    // So slow that something is missing until the end.
    image.registry.set_bandwidth((FILES << 20) as u64 / lasts.as_secs());
    let target = larder.mount(&image.reference(), "mnt", frontend);
    let desk = larder.dir("desk");
    fs::write(desk.join("go"), "").expect("a file");
    let mut program = Command::new(target.join("bin/sh"))
        .args(["-c", SCRIPT, "sh"])
        .args([&target, &desk])
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs from the image");
    let programs = ["one", "two"].map(|name| another_binary(&larder, name));
    let begun = Instant::now();
    let mut replaced = 0;
    for second in 1_usize.. {
        if begun.elapsed() >= lasts {
            break;
        }
        if second.is_multiple_of(3) {
            let program = &programs[replaced % 2];
            let status = replace(&larder, program).json();
            assert_eq!(status["program"].as_str(), program.to_str(), "{status:#}");
            replaced += 1;
        } else {
            kill(larder.worker(), Signal::KILL);
        }
        let next = Duration::from_secs(u64::try_from(second).expect("small"));
        thread::sleep(next.saturating_sub(begun.elapsed()));
        assert!(program.try_wait().expect("a child").is_none(), "{test}: {}", end(program));
    }
    fs::remove_file(desk.join("go")).expect("it is there");
    assert_eq!(end(program), "exit status: 0 ", "{test}");
    let checked = fs::read_to_string(desk.join("checked")).expect("something was checked");
    assert!(replaced > 0 && checked.trim().parse::<usize>().expect("a number") > 1, "{test}: {checked}");
    let mount = larder.mount_status(&target);
    assert!(mount["last_error"].is_null(), "{mount:#}");
    larder.run(["umount".as_ref(), target.as_os_str()]).ok();
}

/// How a program ended, and what it said.
fn end(program: std::process::Child) -> String {
    let output = program.wait_with_output().expect("a child");
    format!("{} {}", output.status, String::from_utf8_lossy(&output.stderr))
}

#[test]
fn p4_a_program_from_the_image_does_not_notice_that_workers_are_killed_and_replaced() {
    for frontend in support::FRONT_ENDS {
        p4_a_program_from_the_image_does_not_notice(frontend, Duration::from_secs(6));
    }
}

#[test]
#[ignore = "takes a minute for each front end"]
fn p4_a_program_from_the_image_does_not_notice_a_minute_of_kills_and_replacements() {
    for frontend in support::FRONT_ENDS {
        p4_a_program_from_the_image_does_not_notice(frontend, Duration::from_secs(60));
    }
}

/// A daemon with a mount of a small image, through the first front end that works.
fn mounted(larder: &Larder) -> Option<(Image, PathBuf)> {
    let frontend = support::FRONT_ENDS.into_iter().find(|name| larder.cannot(name).is_none())?;
    let source = larder.dir("source");
    tree::plain(&source);
    let image = Image::build(larder, &source, "layout");
    let target = larder.mount(&image.reference(), "mnt", frontend);
    Some((image, target))
}

fn assert_serves(larder: &Larder, target: &Path) {
    support::compare::assert_same(&larder.path("source"), target);
}

#[test]
fn p4_what_this_release_does_not_understand_is_refused_and_the_old_worker_serves_on() {
    let larder = Larder::new(User::Same);
    let Some((_image, target)) = mounted(&larder) else {
        return skip("p4_what_this_release_does_not_understand_is_refused", "no front end works here");
    };
    let worker = larder.worker();
    let record = larder.root().join("state/mounts/abc.json");
    let format = larder.root().join("cache/format");
    let good = fs::read_to_string(&format).expect("the cache is there");
    let newer = good.replace("larder-cache 2", "larder-cache 3");
    assert_ne!(good, newer);
    for (file, text, back) in
        [(&record, r#"{"version": 2, "id": "abc"}"#, None), (&format, &*newer, Some(&good))]
    {
        fs::write(file, text).expect("our own root");
        let said = larder.run(["daemon", "--replace"]).failed();
        let place = if back.is_some() { format.parent().expect("a directory") } else { file };
        assert!(said.contains(&place.display().to_string()) && said.contains("newer release"), "{said}");
        assert!(said.contains("hint: ") && said.contains("larder daemon --stop"), "{said}");
        match back {
            Some(text) => fs::write(file, text).expect("our own root"),
            None => fs::remove_file(file).expect("our own root"),
        }
        assert_eq!(larder.worker(), worker, "it was not touched");
    }
    assert_serves(&larder, &target);
    let status = larder.run(["daemon", "--replace", "--json"]).json();
    assert_ne!(status["worker"]["pid"], json!(worker), "with nothing in the way it is replaced");
}

#[test]
fn a_daemon_does_not_start_on_the_mount_records_of_a_newer_release() {
    let larder = Larder::new(User::Same);
    let mounts = larder.root().join("state/mounts");
    fs::create_dir_all(&mounts).expect("our own root");
    let record = mounts.join("abc.json");
    fs::write(&record, r#"{"version": 2, "id": "abc"}"#).expect("our own root");
    let said = larder.run(["daemon", "--detach"]).failed();
    assert!(said.contains(&record.display().to_string()) && said.contains("newer release"), "{said}");
    assert!(record.exists(), "it is left alone");
    fs::remove_file(&record).expect("it is there");
    larder.run(["daemon", "--detach"]).ok();
}

#[test]
fn p4_a_worker_that_makes_way_leaves_an_index_that_needs_no_walk() {
    let larder = Larder::new(User::Same);
    let Some((_image, target)) = mounted(&larder) else {
        return skip("p4_a_worker_that_makes_way", "no front end works here");
    };
    assert_serves(&larder, &target);
    let program = another_binary(&larder, "one");
    for _ in 0..2 {
        let worker = larder.worker();
        replace(&larder, &program).json();
        assert_ne!(larder.worker(), worker);
        assert_serves(&larder, &target);
    }
    // The first worker found nothing; a walk through that is one, too.
    assert_eq!(larder.log().matches("the index is rebuilt").count(), 1, "{}", larder.log());
    larder.run(["umount".as_ref(), target.as_os_str()]).ok();
}

#[test]
fn p4_a_new_program_that_does_not_serve_is_followed_by_the_old_one() {
    let larder = Larder::new(User::Same);
    let Some((_image, target)) = mounted(&larder) else {
        return skip("p4_a_new_program_that_does_not_serve", "no front end works here");
    };
    for program in ["/bin/false", "/nothing/at/all"] {
        let worker = larder.worker();
        let body = json!({ "program": program }).to_string();
        let mut socket = UnixStream::connect(larder.root().join("run/larder.sock")).expect("it answers");
        write!(
            socket,
            "POST /v1/replace HTTP/1.1\r\nhost: larder\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("it listens");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_serves(&larder, &target);
        let begun = Instant::now();
        while larder.worker() == worker {
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not make way");
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(larder.status()["program"].as_str(), binary().to_str());
        assert!(larder.log().contains("going back to the one before"), "{}", larder.log());
    }
}

/// A package manager takes the old program away before it puts the new one there.
#[test]
fn p4_a_keeper_is_started_again_while_the_program_is_not_where_it_was() {
    let larder = Larder::new(User::Same);
    let program = another_binary(&larder, "moved-larder");
    let mut daemon = command(User::Same, &program);
    daemon.arg("--root").arg(larder.root()).args(["daemon", "--detach"]);
    run(daemon).ok();
    let keeper = pid(&larder.status(), "keeper").expect("a keeper");
    fs::remove_file(&program).expect("it is there");
    kill(keeper, Signal::KILL);
    let begun = Instant::now();
    while pid(&larder.status(), "keeper").is_none_or(|now| now == keeper) {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody keeps:\n{}", larder.log());
        thread::sleep(Duration::from_millis(20));
    }
    larder.run(["daemon", "--stop"]).ok();
}

#[test]
fn a_daemon_of_another_release_is_refused_in_words_and_told_nothing() {
    let status = |formats: Value| {
        json!({
            "version": "9.9.9", "formats": formats, "keeper": null,
            "worker": { "pid": 1, "resident_bytes": 0 }, "mounts": [], "blobs": [],
        })
    };
    let newer = json!({ "records": 9, "cache": 2, "kept": 1, "keeper": 2 });
    for (formats, words) in
        [(newer, "version 9 is of a newer release"), (Value::Null, "does not know `--replace`")]
    {
        let larder = Larder::new(User::Same);
        fs::create_dir_all(larder.root().join("run")).expect("our own root");
        fs::create_dir_all(larder.root().join("state/mounts")).expect("our own root");
        let socket = larder.root().join("run/larder.sock");
        let asked = answer_with(UnixListener::bind(&socket).expect("a socket"), &status(formats));
        let said = larder.run(["daemon", "--replace"]).failed();
        assert!(said.contains(words) && said.contains("hint: "), "{said}");
        // A last caller ends the thread.
        fs::write(larder.path("end"), "").expect("our own directory");
        let mut last = UnixStream::connect(&socket).expect("it listens");
        last.write_all(b"END\r\n\r\n").expect("it listens");
        let asked = asked.join().expect("it answered");
        fs::remove_file(&socket).expect("our own root");
        assert!(asked.iter().all(|line| line.starts_with("GET /v1/status ")), "{asked:?}");
    }
}

/// Answers every call with `status`, until one says END; returns the first lines of the calls.
fn answer_with(listener: UnixListener, status: &Value) -> thread::JoinHandle<Vec<String>> {
    let body = status.to_string();
    thread::spawn(move || {
        let mut asked = Vec::new();
        for socket in listener.incoming() {
            let mut socket = socket.expect("a caller");
            let mut request = Vec::new();
            let mut piece = [0; 4096];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match socket.read(&mut piece).expect("a caller speaks") {
                    0 => break,
                    len => request.extend_from_slice(&piece[..len]),
                }
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            if request.starts_with("END") {
                break;
            }
            // A caller that only looks whether somebody listens says nothing.
            if let Some(line) = request.lines().next() {
                asked.push(line.to_owned());
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n";
                let _ = write!(socket, "{head}content-length: {}\r\n\r\n{body}", body.len());
            }
        }
        asked
    })
}

#[test]
fn without_a_daemon_there_is_nothing_to_replace() {
    let larder = Larder::new(User::Same);
    let said = larder.run(["daemon", "--replace"]).failed();
    assert!(said.contains("no daemon answers") && said.contains("hint: "), "{said}");
    for wrong in [["--stop", "--replace"], ["--detach", "--replace"]] {
        let outcome = larder.run(["daemon"].iter().chain(&wrong).map(OsStr::new));
        assert_eq!(outcome.code, 2, "{}", outcome.stderr);
    }
    let said = larder.run(["daemon", "--replace", "--quota", "1GiB"]).failed();
    assert!(said.contains("--replace takes no limits"), "{said}");
}

//! `larder trace`: every fault can be seen from outside, while it happens (P8).

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::daemon::kill;
use crate::support::program::User;
use crate::support::{self, Image, Larder, skip, tree};

/// A `larder trace` that has begun to listen.
struct Trace {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Trace {
    fn start(larder: &Larder, args: &[&str]) -> Self {
        let mut command = larder.command(["trace"].iter().chain(args));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it can be started");
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut said = String::new();
        stderr.read_line(&mut said).expect("a pipe can be read");
        if !said.starts_with("tracing") {
            stderr.read_to_string(&mut said).expect("a pipe can be read");
            panic!("{said}");
        }
        let stdout = child.stdout.take().map(BufReader::new);
        Self { child, stdout }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.as_mut().expect("a pipe").read_line(&mut line).expect("text");
        line
    }

    /// The first record that `is_wanted`.
    fn until(&mut self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.line();
            let record: Value =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
            if is_wanted(&record) {
                return record;
            }
        }
    }

    fn ended(mut self) -> (i32, String) {
        let mut rest = String::new();
        if let Some(mut stdout) = self.stdout.take() {
            stdout.read_to_string(&mut rest).expect("text");
        }
        (self.child.wait().expect("our own child").code().unwrap_or(-1), rest)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Only where a test has failed: else it has ended.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn front_end(larder: &Larder) -> Option<&'static str> {
    support::FRONT_ENDS.into_iter().find(|name| larder.cannot(name).is_none())
}

fn nobody_listens(larder: &Larder) {
    let begun = Instant::now();
    while larder.status()["trace_listeners"] != 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:#}", larder.status());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn p8_a_cold_read_is_seen_from_the_decision_to_the_bytes_and_only_of_the_image_asked_for() {
    let larder = Larder::new(User::Same);
    let Some(frontend) = front_end(&larder) else {
        return skip("p8_a_cold_read_is_seen", "no front end works here");
    };
    let image = |name: &str, seed| {
        let source = larder.dir(&format!("source-{name}"));
        fs::write(source.join("file"), tree::noise(seed, 1 << 20)).expect("a file");
        Image::build(&larder, &source, &format!("layout-{name}"))
    };
    let (traced, other) = (image("traced", 1), image("other", 2));
    larder.run(["daemon", "--detach"]).ok();
    // Named before it is mounted.
    let target = larder.path("mnt");
    let mut trace = Trace::start(&larder, &["--json", "--image", target.to_str().expect("plain")]);
    assert_eq!(larder.status()["trace_listeners"], 1);
    let elsewhere = larder.mount(&other.reference(), "other", frontend);
    let mounted = larder.mount(&traced.reference(), "mnt", frontend);
    assert_eq!(mounted, target);
    fs::read(elsewhere.join("file")).expect("it can be read");
    fs::read(target.join("file")).expect("it can be read");
    let status = larder.mount_status(&target);
    let blobs = status["blobs"].as_array().expect("a list").clone();
    let mut of_this_image = |source: &str| {
        let record = trace.until(|record| {
            assert!(blobs.contains(&record["cookie"]), "an event of another image: {record:#}");
            record["source"] == source
        });
        assert!(record["start"].is_u64() && record["len"].is_u64() && record["at_ns"].is_u64(), "{record:#}");
        record["why"].clone()
    };
    let why = of_this_image("DOWN");
    assert!(["no-data", "found-hole", "found-part"].contains(&why.as_str().expect("text")), "{why}");
    assert_eq!(of_this_image("READ"), "have-data");
    kill(i32::try_from(trace.child.id()).expect("an id"), Signal::INT);
    assert_eq!(trace.ended().0, 0, "Ctrl-C is no failure");
    nobody_listens(&larder);
}

#[test]
fn lines_for_people_begin_as_those_of_ftrace_and_end_after_a_count() {
    let larder = Larder::new(User::Same);
    let Some(frontend) = front_end(&larder) else {
        return skip("lines_for_people_begin_as_those_of_ftrace", "no front end works here");
    };
    let source = larder.dir("source");
    tree::plain(&source);
    let image = Image::build(&larder, &source, "layout");
    larder.run(["daemon", "--detach"]).ok();
    let trace = Trace::start(&larder, &["--count", "3", "--event", "cachefiles_*"]);
    let target = larder.mount(&image.reference(), "mnt", frontend);
    support::compare::assert_same(&source, &target);
    let (code, lines) = trace.ended();
    assert_eq!((code, lines.lines().count()), (0, 3), "{lines}");
    for line in lines.lines() {
        let (before, after) = line.split_once(": ").expect("time, then the event");
        let (task, seconds) = before.trim_start().rsplit_once(' ').expect("task, then the time");
        assert!(task.contains('-') && seconds.parse::<f64>().is_ok(), "{line}");
        assert!(after.starts_with("cachefiles_") && after.contains(" cookie="), "{line}");
    }
}

#[test]
fn a_closed_pipe_ends_a_trace_quietly_and_switches_it_off() {
    let larder = Larder::new(User::Same);
    let Some(frontend) = front_end(&larder) else {
        return skip("a_closed_pipe_ends_a_trace_quietly", "no front end works here");
    };
    let source = larder.dir("source");
    tree::plain(&source);
    let image = Image::build(&larder, &source, "layout");
    larder.run(["daemon", "--detach"]).ok();
    let mut trace = Trace::start(&larder, &[]);
    drop(trace.stdout.take());
    let target = larder.mount(&image.reference(), "mnt", frontend);
    support::compare::assert_same(&source, &target);
    assert_eq!(trace.ended().0, 0);
    nobody_listens(&larder);
}

#[test]
fn the_end_of_the_daemon_ends_a_trace() {
    let larder = Larder::new(User::Same);
    larder.run(["daemon", "--detach"]).ok();
    let trace = Trace::start(&larder, &["--json"]);
    larder.run(["daemon", "--stop"]).ok();
    assert_eq!(trace.ended().0, 0);
}

#[test]
fn p7_an_event_of_no_name_and_a_count_of_nothing_are_refused() {
    let larder = Larder::new(User::Same);
    larder.run(["daemon", "--detach"]).ok();
    let said = larder.run(["trace", "--event", "cachefiles_prep"]).failed();
    assert!(said.contains("cachefiles_prep: no trace event") && said.contains("hint: "), "{said}");
    assert_eq!(larder.run(["trace", "--count", "0"]).code, 2);
    let said = larder.run(["trace", "--image", "https://models.example/llm/"]).failed();
    assert!(said.contains("is a tree, no image") && said.contains("--cookie"), "{said}");
    assert_eq!(larder.status()["trace_listeners"], 0);
    larder.run(["daemon", "--stop"]).ok();
    assert!(larder.run(["trace"]).failed().contains("no daemon answers"));
    let listed = larder.run(["trace", "--list", "--json"]).json();
    assert!(listed.as_array().expect("a list").iter().any(|event| event["event"] == "cachefiles_prep_read"));
}

use nsq_cli::{Level, Logger};

use super::super::filename::NameOptions;
use super::*;

const HOUR: i64 = 3600;

/// A folder with `out` and `work` in it, and files of topic `t` on host `h`.
struct Fixture {
    folder: tempfile::TempDir,
    logger: Logger,
    began: Instant,
    gzip: bool,
    rotate_size: u64,
    rotate_interval: Duration,
    moves: bool,
}

impl Fixture {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            logger: Logger::in_memory("", Level::Debug),
            began: Instant::now(),
            gzip: false,
            rotate_size: 0,
            rotate_interval: Duration::ZERO,
            moves: false,
        }
    }

    fn files(&self) -> FileRotation {
        let output_dir = self.folder.path().join("out");
        let work_dir = match self.moves {
            true => self.folder.path().join("work"),
            false => output_dir.clone(),
        };
        let options = FileOptions {
            output_dir,
            work_dir,
            gzip_level: self.gzip.then_some(6),
            rotate_size: self.rotate_size,
            rotate_interval: self.rotate_interval,
        };
        let names = NameOptions {
            format: "<TOPIC>.<HOST><REV>.<DATETIME>.log".into(),
            datetime: "%H".into(),
            host_identifier: String::new(),
            gzip: self.gzip,
            revisions: self.gzip
                || self.moves
                || self.rotate_size > 0
                || !self.rotate_interval.is_zero(),
        };
        let names = FileNames::new(&names, "t", "h").expect("the format has a revision");
        let log = TopicLog::new(self.logger.clone(), "t", "c");
        FileRotation::new(options, names, log)
    }

    fn now(&self, seconds: i64) -> Now {
        Now {
            wall: jiff::Timestamp::from_second(seconds)
                .unwrap()
                .to_zoned(jiff::tz::TimeZone::UTC),
            monotonic: self.began + Duration::from_secs(u64::try_from(seconds).unwrap()),
        }
    }

    /// Appends as the topic's task does.
    fn write(&self, files: &mut FileRotation, seconds: i64, body: &str) {
        let now = self.now(seconds);
        if files.is_due(&now) {
            files.rotate(&now).unwrap();
        }
        files.append(body.as_bytes()).unwrap();
        files.flush().unwrap();
    }

    /// Names and sizes of the files in a sub-folder, in the order of the names.
    fn listing(&self, folder: &str) -> Vec<(String, u64)> {
        let Ok(entries) = fs::read_dir(self.folder.path().join(folder)) else {
            return Vec::new();
        };
        let mut found: Vec<(String, u64)> = entries
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                (name, entry.metadata().unwrap().len())
            })
            .collect();
        found.sort();
        found
    }

    fn assert_listing(&self, folder: &str, expected: &[(&str, u64)]) {
        let expected: Vec<(String, u64)> = expected
            .iter()
            .map(|(name, size)| ((*name).to_owned(), *size))
            .collect();
        assert_eq!(self.listing(folder), expected, "{folder}");
    }

    fn assert_logged(&self, text: &str) {
        let log = self.logger.captured();
        assert!(log.contains(text), "{text:?} not in:\n{log}");
    }
}

#[test]
fn a_file_is_continued_and_followed_by_the_next_hour() {
    let fixture = Fixture::new();
    let mut files = fixture.files();
    fixture.write(&mut files, 0, "one");
    files.close().unwrap();
    let mut files = fixture.files();
    fixture.write(&mut files, 1, "two");
    fixture.write(&mut files, HOUR, "three");
    fixture.assert_listing("out", &[("t.h.00.log", 8), ("t.h.01.log", 6)]);
    fixture.assert_logged("INFO: [t/c] new filename t.h.01.log, rotating...");
    fixture.assert_logged("out/t.h.01.log");
}

#[test]
fn sizes_are_exceeded_by_at_most_one_record() {
    let mut fixture = Fixture::new();
    fixture.rotate_size = 10;
    let mut files = fixture.files();
    for _ in 0..7 {
        fixture.write(&mut files, 0, "abcd");
    }
    let expected = [
        ("t.h-000000.00.log", 15),
        ("t.h-000001.00.log", 15),
        ("t.h-000002.00.log", 5),
    ];
    fixture.assert_listing("out", &expected);
    fixture.assert_logged("t.h-000000.00.log currently 15 bytes (> 10), rotating...");
    // A restart passes over the full ones and continues the last.
    files.close().unwrap();
    let mut files = fixture.files();
    fixture.write(&mut files, 0, "abcd");
    fixture.assert_listing(
        "out",
        &[expected[0], expected[1], ("t.h-000002.00.log", 10)],
    );
}

#[test]
fn intervals_count_from_the_opening() {
    let mut fixture = Fixture::new();
    fixture.rotate_interval = Duration::from_secs(60);
    let mut files = fixture.files();
    fixture.write(&mut files, 5, "a");
    fixture.write(&mut files, 65, "b");
    fixture.write(&mut files, 66, "c");
    fixture.assert_listing("out", &[("t.h-000000.00.log", 4), ("t.h-000001.00.log", 2)]);
    fixture.assert_logged("1m1s since last open, rotating...");
    // Files of an earlier process are left alone.
    let mut files = fixture.files();
    fixture.write(&mut files, 66, "d");
    assert_eq!(fixture.listing("out").len(), 3);
    fixture.assert_logged("WARNING: [t/c] working file already exists: ");
}

#[test]
fn gzip_files_are_never_continued() {
    let mut fixture = Fixture::new();
    fixture.gzip = true;
    for _ in 0..2 {
        let mut files = fixture.files();
        fixture.write(&mut files, 0, "a");
        files.close().unwrap();
    }
    let names: Vec<String> = fixture.listing("out").into_iter().map(|f| f.0).collect();
    assert_eq!(names, ["t.h-000000.00.log.gz", "t.h-000001.00.log.gz"]);
}

#[test]
fn finished_files_move_and_new_ones_follow() {
    let mut fixture = Fixture::new();
    fixture.moves = true;
    let mut files = fixture.files();
    fixture.write(&mut files, 0, "a");
    fixture.assert_listing("work", &[("t.h-000000.00.log", 2)]);
    fixture.assert_listing("out", &[]);
    // As SIGHUP does; the reference dies at the next message.
    files.close().unwrap();
    files.close().unwrap();
    fixture.assert_listing("work", &[]);
    fixture.write(&mut files, 0, "b");
    files.close().unwrap();
    fixture.assert_listing("out", &[("t.h-000000.00.log", 2), ("t.h-000001.00.log", 2)]);
    // A name that is taken in the output folder is not used again.
    let mut files = fixture.files();
    fixture.write(&mut files, 0, "c");
    fixture.assert_logged("WARNING: [t/c] output file already exists: ");
    fixture.assert_listing("work", &[("t.h-000002.00.log", 2)]);
}

#[test]
fn a_move_overwrites_nothing() {
    let mut fixture = Fixture::new();
    fixture.moves = true;
    let mut files = fixture.files();
    fixture.write(&mut files, 0, "mine");
    let taken = fixture.folder.path().join("out/t.h-000000.00.log");
    fs::write(&taken, "theirs").unwrap();
    files.close().unwrap();
    assert_eq!(fs::read(&taken).unwrap(), b"theirs");
    fixture.assert_listing("out", &[("t.h-000000.00.log", 6), ("t.h-000001.00.log", 5)]);
    fixture.assert_logged("WARNING: [t/c] destination file already exists: ");
    fixture.assert_logged(" to avoid overwrite");
}

#[test]
fn a_record_torn_by_a_kill_is_ended() {
    let fixture = Fixture::new();
    let mut files = fixture.files();
    fixture.write(&mut files, 0, "a");
    drop(files);
    let path = fixture.folder.path().join("out/t.h.00.log");
    fs::write(&path, "a\nto").unwrap();
    let mut files = fixture.files();
    fixture.write(&mut files, 0, "b");
    assert_eq!(fs::read(&path).unwrap(), b"a\nto\nb\n");
    fixture.assert_logged("ends in the middle of a record");
}

#[test]
fn what_cannot_be_written_says_where_and_why() {
    let fixture = Fixture::new();
    fs::write(fixture.folder.path().join("out"), "a file in the way").unwrap();
    let mut files = fixture.files();
    let error = files.rotate(&fixture.now(0)).unwrap_err().to_string();
    let place = fixture.folder.path().join("out");
    let place = place.display();
    assert_eq!(
        error,
        format!("unable to create dir: mkdir {place}: file exists")
    );
}

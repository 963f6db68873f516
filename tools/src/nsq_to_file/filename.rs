//! File names: `--filename-format`, its tokens, revisions.

use jiff::Zoned;

use super::strftime;

const REVISION: &str = "<REV>";

/// What the names of all topics are made of.
#[derive(Debug, Clone)]
pub(super) struct NameOptions {
    /// `--filename-format`, relative to a directory; may contain `/`.
    pub(super) format: String,
    /// `--datetime-format`.
    pub(super) datetime: String,
    /// `--host-identifier`, empty for the host's own name.
    pub(super) host_identifier: String,
    /// Whether names end in `.gz`.
    pub(super) gzip: bool,
    /// Whether several files may need the same name otherwise.
    pub(super) revisions: bool,
}

/// A name cannot be made so that files are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("missing <REV> in --filename-format when gzip, rotation, or work dir enabled")]
pub(super) struct MissingRevision;

/// The names of one topic's files.
#[derive(Debug)]
pub(super) struct FileNames {
    /// With `<DATETIME>` and `<REV>` left.
    template: String,
    datetime: String,
    /// The template of the second it was made for: a name can change only once a second.
    cached: Option<(i64, String)>,
}

impl FileNames {
    /// For a topic on the host of that name.
    ///
    /// # Errors
    /// [`MissingRevision`].
    pub(super) fn new(
        options: &NameOptions,
        topic: &str,
        hostname: &str,
    ) -> Result<Self, MissingRevision> {
        let mut template = options.format.clone();
        if !options.revisions {
            template = template.replace(REVISION, "");
        } else if !template.contains(REVISION) {
            return Err(MissingRevision);
        }
        let short = hostname.split('.').next().unwrap_or(hostname);
        let host = match options.host_identifier.as_str() {
            "" => short.to_owned(),
            identifier => identifier
                .replace("<SHORT_HOST>", short)
                .replace("<HOSTNAME>", hostname),
        };
        let process = std::process::id().to_string();
        template = template
            .replace("<TOPIC>", topic)
            .replace("<HOST>", &host)
            .replace("<PID>", &process);
        if options.gzip && !template.ends_with(".gz") {
            template.push_str(".gz");
        }
        Ok(Self {
            template,
            datetime: options.datetime.clone(),
            cached: None,
        })
    }

    /// The name at that time, with `<REV>` left in it.
    pub(super) fn at(&mut self, now: &Zoned) -> &str {
        let second = now.timestamp().as_second();
        if self.cached.as_ref().is_none_or(|(at, _)| *at != second) {
            let datetime = strftime::format(&self.datetime, now);
            let name = self.template.replace("<DATETIME>", &datetime);
            self.cached = Some((second, name));
        }
        &self.cached.as_ref().expect("just made").1
    }
}

/// A name of [`FileNames::at`] with its revision filled in.
pub(super) fn with_revision(name: &str, revision: u32) -> String {
    name.replace(REVISION, &format!("-{revision:06}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = "<TOPIC>.<HOST><REV>.<DATETIME>.log";

    fn time(second: i64) -> Zoned {
        jiff::Timestamp::from_second(second)
            .expect("in range")
            .to_zoned(jiff::tz::TimeZone::UTC)
    }

    fn options(format: &str) -> NameOptions {
        NameOptions {
            format: format.to_owned(),
            datetime: "%Y-%m-%d_%H".to_owned(),
            host_identifier: String::new(),
            gzip: false,
            revisions: false,
        }
    }

    fn name(options: &NameOptions) -> String {
        let mut names = FileNames::new(options, "t1", "vm.example.org").expect("fine");
        with_revision(names.at(&time(1_795_219_200)), 3)
    }

    #[test]
    fn tokens_are_replaced_wherever_they_stand() {
        assert_eq!(name(&options(DEFAULT)), "t1.vm.2026-11-21_00.log");
        let process = std::process::id();
        assert_eq!(
            name(&options("<TOPIC>/<TOPIC>.<PID>.<BOGUS>")),
            format!("t1/t1.{process}.<BOGUS>")
        );
        let mut identified = options("<HOST><HOST>");
        identified.host_identifier = "<SHORT_HOST>_<HOSTNAME>.".to_owned();
        assert_eq!(name(&identified), "vm_vm.example.org.vm_vm.example.org.");
    }

    #[test]
    fn revisions_are_there_when_needed() {
        let mut rotated = options(DEFAULT);
        rotated.revisions = true;
        assert_eq!(name(&rotated), "t1.vm-000003.2026-11-21_00.log");
        rotated.gzip = true;
        assert_eq!(name(&rotated), "t1.vm-000003.2026-11-21_00.log.gz");
        rotated.format = "<REV>.gz".to_owned();
        assert_eq!(name(&rotated), "-000003.gz");
        rotated.format = "x".to_owned();
        assert_eq!(
            FileNames::new(&rotated, "t", "h").err(),
            Some(MissingRevision)
        );
    }

    #[test]
    fn a_name_follows_the_clock() {
        let mut names = FileNames::new(&options(DEFAULT), "t", "h").expect("fine");
        assert_eq!(names.at(&time(1_795_219_200)), "t.h.2026-11-21_00.log");
        assert_eq!(names.at(&time(1_795_222_799)), "t.h.2026-11-21_00.log");
        assert_eq!(names.at(&time(1_795_222_800)), "t.h.2026-11-21_01.log");
    }
}

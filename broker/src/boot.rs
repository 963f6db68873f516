//! From command line to serving, as a list of steps of which each gives what the next one needs
//! (spec nsqd.md §1.4), and back down at the end.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use glommio::{LocalExecutorBuilder, Placement};
use nsq_cli::{Logger, Signals, banner, fatal, fatal_startup, lock_data_path};
use nsq_core::{Epoch, RestoredChannel, RestoredTopic, Sequence};
use nsq_log::{LogConfig, Recovered, TopicLog};
use nsq_proto::TopicName;

use crate::catalogue::{Catalogue, FILE_NAME, TopicEntry};
use crate::clock::Clock;
use crate::config::{self, Config, StartupError};
use crate::control::{Control, ControlMessage, ControlSender};
use crate::import;
use crate::listen::{self, BoundAddress, Listeners, SocketFile};
use crate::mailbox::Mailbox;
use crate::preflight;
use crate::ring::{Ring, RingOptions};
use crate::settings;
use crate::shard::Shard;
use crate::shard::cell::ShardCell;
use crate::shard::driver::Driver;
use crate::shard::logs::decode_key;
use crate::shard::message::{ShardId, StorageJob};
use crate::shared::{Congestion, Health, Mailboxes, Shared};
use crate::stage;
use crate::storage;

/// Messages that fit into a shard's mailbox.
const MAILBOX_CAPACITY: usize = 4096;
/// glommio's own I/O memory per executor: the shard's files and sockets do not use it.
const EXECUTOR_IO_MEMORY: usize = 64 * 1024;
/// Entries of glommio's own rings, which carry its timers and nothing else.
const EXECUTOR_RING_DEPTH: usize = 32;

/// Where the logs of all topics are.
pub(crate) fn logs_dir(data_path: &Path) -> PathBuf {
    data_path.join("topics")
}

/// The directory of one topic's log: its name, made harmless (`.` and `..` are legal names) and
/// told apart from the reference's files by a suffix.
pub(crate) fn log_dir(data_path: &Path, topic: &TopicName) -> PathBuf {
    logs_dir(data_path).join(format!("{topic}{LOG_DIR_SUFFIX}"))
}

/// What the name of a log's directory ends with.
pub(crate) const LOG_DIR_SUFFIX: &str = ".log";

/// Runs the broker until it is told to stop.
#[must_use]
pub fn run(args: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let raw = match config::parse_args(args) {
        Ok(raw) => raw,
        Err(exit) => return exit.report(config::PROGRAM),
    };
    let data_path = raw.data_path();
    let locked = lock_data_path(&data_path).map_err(StartupError::from);
    let (lock, config) = match locked.and_then(|lock| Ok((lock, raw.validate()?))) {
        Ok(both) => both,
        Err(error) => return fatal_startup(config::PROGRAM, &error),
    };
    let logger = Logger::new(config.log.prefix.clone(), config.log.level);
    let outcome = start_and_serve(config, &logger);
    drop(lock);
    match outcome {
        Ok(true) => {
            logger.info(format_args!("NSQ: bye"));
            ExitCode::SUCCESS
        }
        Ok(false) => ExitCode::FAILURE,
        Err(Failure::Instantiate(text)) => fatal_startup(config::PROGRAM, &text),
        Err(Failure::Other(text)) => fatal(config::PROGRAM, &text),
    }
}

/// Why the broker could not start.
enum Failure {
    /// `failed to instantiate nsqd - <text>`.
    Instantiate(String),
    /// The text alone.
    Other(String),
}

/// The doors.
struct Doors {
    tcp: Option<Listeners>,
    http: Option<Listeners>,
    https: Option<Listeners>,
}

impl Doors {
    /// The bound ports of TCP and HTTP; 0 where there is none.
    fn ports(&self) -> (u16, u16) {
        let port = |door: &Option<Listeners>| door.as_ref().map_or(0, |door| door.address.port());
        (port(&self.tcp), port(&self.http))
    }

    /// The bound port of HTTPS; 0 where there is none.
    fn https_port(&self) -> u16 {
        match self.https.as_ref().map(|door| &door.address) {
            Some(BoundAddress::Tcp(address)) => address.port(),
            Some(BoundAddress::Unix(_)) | None => 0,
        }
    }

    /// The same as `/info` shows them: -1 for a unix socket.
    fn shown_ports(&self) -> (i64, i64) {
        let port = |door: &Option<Listeners>| match door.as_ref().map(|door| &door.address) {
            Some(BoundAddress::Tcp(address)) => i64::from(address.port()),
            Some(BoundAddress::Unix(_)) => -1,
            None => 0,
        };
        (port(&self.tcp), port(&self.http))
    }

    /// The files of unix sockets, which are to outlive the shards.
    fn take_files(&mut self) -> Vec<SocketFile> {
        let doors = [&mut self.tcp, &mut self.http, &mut self.https]
            .into_iter()
            .flatten();
        doors.filter_map(|door| door.file.take()).collect()
    }
}

/// `true`: it was told to stop and everything is on disk.
fn start_and_serve(mut config: Config, logger: &Logger) -> Result<bool, Failure> {
    let mut signals = Signals::install().map_err(|error| Failure::Other(error.to_string()))?;
    abort_on_panic();
    logger.info(format_args!("{}", banner(config::PROGRAM)));
    logger.info(format_args!("ID: {}", config.identity.node_id));
    for warning in &config.warnings {
        logger.warn(format_args!("{warning}"));
    }
    if let Some(path) = config.security.tls.cert.as_ref() {
        let oldest = crate::tls::oldest_version(&config.security.tls);
        logger.info(format_args!(
            "TLS: {oldest} is the oldest version spoken, certificate from {}",
            path.display()
        ));
    }
    check_machine(&config, logger)?;
    let mut doors = open_doors(&config).map_err(|error| Failure::Instantiate(error.to_string()))?;
    let socket_files = doors.take_files();
    let (tcp_port, http_port) = doors.ports();
    config.on_bound(tcp_port, http_port);
    redo_writes(&config.durability.data_path, logger)?;
    let catalogue = load_catalogue(&config, logger)?;
    set_orphans_aside(&config.durability.data_path, &catalogue, logger);

    let (control, messages) = tokio::sync::mpsc::unbounded_channel();
    let (storage, jobs) = channel();
    let shared = share(
        &config,
        &doors,
        logger,
        ControlSender(control.clone()),
        storage,
    );
    let now = shared.clock.now();
    import::run(&shared.settings, &catalogue, now, logger)
        .map_err(|error| Failure::Other(format!("failed to import disk queues - {error}")))?;
    start_storage(&shared, jobs).map_err(Failure::Other)?;
    start_shards(&shared, doors, &catalogue).map_err(Failure::Other)?;
    let to_control = control;
    let heard = thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            while to_control
                .send(ControlMessage::Signal(signals.wait()))
                .is_ok()
            {}
        });
    heard.map_err(|error| Failure::Other(error.to_string()))?;
    let is_clean = Control::run(shared, settings::control(&config), messages, catalogue)
        .map_err(|error| Failure::Other(error.to_string()))?;
    drop(socket_files);
    Ok(is_clean)
}

/// A thread that panics takes the process with it: half a broker is worse than none.
fn abort_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tell(info);
        std::process::abort();
    }));
}

fn check_machine(config: &Config, logger: &Logger) -> Result<(), Failure> {
    let demand = preflight::Demand {
        shards: config.shards.count as u64,
        io_memory_bytes: EXECUTOR_IO_MEMORY as u64,
    };
    let warnings =
        preflight::check(demand).map_err(|error| Failure::Instantiate(error.to_string()))?;
    for warning in warnings {
        logger.warn(format_args!("{warning}"));
    }
    Ok(())
}

fn open_doors(config: &Config) -> Result<Doors, StartupError> {
    let count = config.shards.count;
    let tcp = open_door(&config.listen.tcp, count)?;
    let open = |address: &config::Address| open_door(address, count);
    let http = config.listen.http.as_ref().map(open).transpose()?;
    let https = config.listen.https.as_ref();
    let https = https.filter(|_| config.security.tls_server.is_some());
    let https = https.map(open).transpose()?;
    Ok(Doors {
        tcp: Some(tcp),
        http,
        https,
    })
}

fn open_door(address: &config::Address, count: usize) -> Result<Listeners, StartupError> {
    let failed = |reason: String| StartupError::Listen {
        address: address.to_string(),
        reason,
    };
    let bound = match address {
        config::Address::Unix(path) => listen::bind_unix(path, count),
        config::Address::Tcp { .. } => {
            let resolved = address.resolve();
            let resolved = resolved.map_err(|error| failed(error.to_string()))?;
            listen::bind(resolved.expect("an internet address"), count)
        }
    };
    bound.map_err(|error| failed(format!("bind: {}", nsq_cli::errno_text(&error))))
}

/// Writes what the last run had accepted and was killed before it could write.
fn redo_writes(data_path: &Path, logger: &Logger) -> Result<(), Failure> {
    let redone = stage::redo(data_path).map_err(|error| {
        let dir = stage::stages_dir(data_path);
        Failure::Other(format!(
            "failed to redo writes - {}: {error}",
            dir.display()
        ))
    })?;
    if redone.writes > 0 {
        let stage::Redone { writes, bytes } = redone;
        logger.info(format_args!(
            "DISK: redid {writes} writes ({bytes} bytes) that the last run had accepted"
        ));
    }
    Ok(())
}

fn load_catalogue(config: &Config, logger: &Logger) -> Result<Catalogue, Failure> {
    let (catalogue, warnings) = Catalogue::load(&config.durability.data_path)
        .map_err(|error| Failure::Other(format!("failed to load metadata - {error}")))?;
    for warning in warnings {
        logger.warn(format_args!("{warning}"));
    }
    Ok(catalogue)
}

/// Logs of topics that `nsqd.dat` does not know (K33): reported and renamed, never adopted when a
/// topic of that name is made again.
fn set_orphans_aside(data_path: &Path, catalogue: &Catalogue, logger: &Logger) {
    let known: std::collections::BTreeSet<PathBuf> = catalogue
        .topics()
        .map(|(name, _)| log_dir(data_path, name))
        .collect();
    let Ok(entries) = fs::read_dir(logs_dir(data_path)) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_log = path.to_string_lossy().ends_with(LOG_DIR_SUFFIX);
        if !is_log || known.contains(&path) {
            continue;
        }
        let aside = (0..).map(|n| PathBuf::from(format!("{}.orphan-{n}", path.display())));
        let aside = aside
            .into_iter()
            .find(|aside| !aside.exists())
            .unwrap_or_default();
        let outcome = match fs::rename(&path, &aside) {
            Ok(()) => format!("set aside as {}", aside.display()),
            Err(error) => format!("could not be set aside - {error}"),
        };
        logger.warn(format_args!(
            "{} belongs to no topic of {FILE_NAME}: {outcome}",
            path.display()
        ));
    }
}

fn share(
    config: &Config,
    doors: &Doors,
    logger: &Logger,
    control: ControlSender,
    storage: std::sync::mpsc::Sender<StorageJob>,
) -> Arc<Shared> {
    let clock = Clock::start();
    let named = [
        ("TCP", &doors.tcp),
        ("HTTP", &doors.http),
        ("HTTPS", &doors.https),
    ];
    let listening = named
        .into_iter()
        .filter_map(|(name, door)| Some((name, &door.as_ref()?.address)))
        .map(|(name, address)| (name, address.to_string()))
        .collect();
    Arc::new(Shared {
        settings: settings::settings(config, doors.https_port()),
        logger: logger.clone(),
        clock,
        health: Health::default(),
        info: settings::info(config, clock, doors.shown_ports()),
        runtime: config.runtime.clone(),
        lookup_peers: (!config.peers.lookupd_tcp_addresses.is_empty()).into(),
        listening,
        congestion: Congestion::new(config.shards.count),
        mailboxes: Mailboxes::new(config.shards.count),
        storage,
        control,
    })
}

fn start_storage(shared: &Arc<Shared>, jobs: Receiver<StorageJob>) -> Result<(), String> {
    let shared = Arc::clone(shared);
    thread::Builder::new()
        .name("storage".to_owned())
        .spawn(move || storage::run(&jobs, &shared.mailboxes))
        .map(drop)
        .map_err(|error| error.to_string())
}

/// What a shard's thread starts with.
struct ShardStart {
    id: ShardId,
    shared: Arc<Shared>,
    /// CPU to run on, if there is one for each shard.
    cpu: Option<usize>,
    /// By listener tag.
    listeners: [Option<OwnedFd>; 3],
    topics: Vec<(TopicName, TopicEntry)>,
}

fn start_shards(shared: &Arc<Shared>, doors: Doors, catalogue: &Catalogue) -> Result<(), String> {
    let shards = shared.shard_count();
    let cpus = preflight::allowed_cpus();
    let mut topics: Vec<Vec<(TopicName, TopicEntry)>> = vec![Vec::new(); shards];
    for (name, entry) in catalogue.topics() {
        topics[crate::shard::owner(name.as_str(), shards)].push((name.clone(), entry.clone()));
    }
    let sockets = |door: Option<Listeners>| {
        door.map(|door| door.sockets)
            .unwrap_or_default()
            .into_iter()
    };
    let (mut tcp, mut http) = (sockets(doors.tcp), sockets(doors.http));
    let mut https = sockets(doors.https);
    for (id, topics) in topics.into_iter().enumerate() {
        let start = ShardStart {
            id,
            shared: Arc::clone(shared),
            cpu: cpus.get(id).copied().filter(|_| shards <= cpus.len()),
            listeners: [tcp.next(), http.next(), https.next()],
            topics,
        };
        thread::Builder::new()
            .name(format!("shard-{id}"))
            .spawn(move || run_shard(start))
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The life of a shard's thread.
fn run_shard(start: ShardStart) {
    let (id, shared) = (start.id, Arc::clone(&start.shared));
    let result = drive_shard(start);
    shared
        .control
        .send(ControlMessage::ShardEnded { shard: id, result });
}

fn drive_shard(start: ShardStart) -> Result<(), String> {
    let ShardStart {
        id,
        shared,
        cpu,
        listeners,
        topics,
    } = start;
    let executor = executor(id, cpu, &shared.logger).map_err(|error| error.to_string())?;
    let options = RingOptions {
        segment_io: shared.settings.segment_io,
        ..RingOptions::default()
    };
    let mut ring = Ring::new(options).map_err(|error| error.to_string())?;
    let data_path = fs::canonicalize(&shared.settings.data_path)
        .map_err(|error| format!("{}: {error}", shared.settings.data_path.display()))?;
    let stage = stage::stages_dir(&data_path).join(id.to_string());
    ring.keep_writes_in(data_path, stage);
    let mailbox = Mailbox::new(MAILBOX_CAPACITY, ring.doorbell());
    shared.mailboxes.open(id, mailbox.clone());
    let mut shard = Shard::new(id, Arc::clone(&shared));
    for (name, entry) in topics {
        restore_topic(&mut shard, &shared, &name, entry)?;
    }
    shared.control.send(ControlMessage::ShardReady);
    let driver = Driver {
        cell: ShardCell::new(shard),
        shared,
        ring,
        mailbox,
        listeners: listeners
            .into_iter()
            .map(|socket| socket.map(Rc::new))
            .collect(),
    };
    executor
        .run(driver.run())
        .map_err(|error| error.to_string())
}

/// A pinned executor, or an unpinned one where pinning is not allowed.
fn executor(
    id: ShardId,
    cpu: Option<usize>,
    logger: &Logger,
) -> Result<glommio::LocalExecutor, glommio::GlommioError<()>> {
    let build = |placement| {
        LocalExecutorBuilder::new(placement)
            .name(&format!("shard-{id}"))
            .io_memory(EXECUTOR_IO_MEMORY)
            .ring_depth(EXECUTOR_RING_DEPTH)
            .make()
    };
    let Some(cpu) = cpu else {
        return build(Placement::Unbound);
    };
    build(Placement::Fixed(cpu)).or_else(|error| {
        logger.warn(format_args!(
            "shard {id} is not pinned to CPU {cpu}: {error}"
        ));
        build(Placement::Unbound)
    })
}

fn restore_topic(
    shard: &mut Shard,
    shared: &Shared,
    name: &TopicName,
    entry: TopicEntry,
) -> Result<(), String> {
    let dir = log_dir(&shared.settings.data_path, name);
    let sync = entry.sync;
    let config = LogConfig {
        sync: sync.map_or(shared.settings.log.sync, settings::policy),
        ..shared.settings.log.clone()
    };
    let (log, recovered) =
        TopicLog::recover(&dir, config).map_err(|error| format!("TOPIC({name}): {error}"))?;
    for warning in &recovered.warnings {
        shared.logger.warn(format_args!("TOPIC({name}): {warning}"));
    }
    shard.restore(name, (log, sync), restored(recovered, entry));
    Ok(())
}

/// What the core restores a topic from: its log, and what `nsqd.dat` says of it.
pub(crate) fn restored(recovered: Recovered, entry: TopicEntry) -> RestoredTopic {
    let sequences = |(start, end)| (Sequence(start), Sequence(end));
    let checkpoint: BTreeMap<_, _> = recovered
        .checkpoint
        .into_iter()
        .filter_map(|(key, value)| Some((decode_key(&key)?, value)))
        .collect();
    RestoredTopic {
        paused: entry.paused,
        channels: entry
            .channels
            .into_iter()
            .map(|(name, paused)| RestoredChannel { name, paused })
            .collect(),
        first: Sequence(recovered.first),
        head: Sequence(recovered.head),
        epochs: recovered
            .epochs
            .into_iter()
            .map(|(s, e)| (Sequence(s), Epoch(e)))
            .collect(),
        epoch: Epoch(recovered.epoch),
        deferred: recovered
            .deferred
            .into_iter()
            .map(|(s, due)| (Sequence(s), due))
            .collect(),
        damaged: recovered.damaged.into_iter().map(sequences).collect(),
        checkpoint,
    }
}

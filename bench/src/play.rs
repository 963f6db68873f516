//! Plays a plan: sets up, runs the load threads, sums up.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::consumer::{Books, Consumed, Consumer, Policy};
use crate::drive::{self, Waiting};
use crate::http::Http;
use crate::ledger::{Ledger, Verdict};
use crate::link::{Link, Wishes};
use crate::pacer::{Pacer, Schedule};
use crate::plan::{Consume, Pace, Plan};
use crate::process::{self, Usage};
use crate::producer::{Budget, Producer, Published, wide};
use crate::progress::Progress;
use crate::report::{BrokerUse, Flow, GeneratorUse, Percentiles, Report, Run, latency_histogram};
use crate::shared::Shared;
use crate::wire;

/// How often threads look at the clock; held answers need it finer.
const TICK: Duration = Duration::from_millis(20);
const TICK_OF_HELD_ANSWERS: Duration = Duration::from_millis(1);
/// Topics hand their messages to channels within this time.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
const SETTLE_INTERVAL: Duration = Duration::from_millis(20);

/// Plays the warm-up and all repetitions.
///
/// # Errors
/// The broker cannot be reached, refuses, or breaks the protocol.
pub(crate) fn play_all(plan: &Plan) -> Result<Report> {
    process::sleep_precisely();
    if plan.target.warmup > 0 {
        play(&plan.warmup(plan.target.warmup)).context("warm-up")?;
    }
    let mut runs = Vec::new();
    let mut histograms = Vec::new();
    for number in 1..=plan.target.repeat {
        let (run, histogram) = play(plan).with_context(|| format!("run {number}"))?;
        runs.push(run);
        histograms.extend(histogram);
    }
    if let Some(path) = &plan.histogram {
        write_log(path, &histograms).with_context(|| format!("write {}", path.display()))?;
    }
    if let (Some(http), true) = (plan.target.http.map(Http::new), plan.target.cleanup) {
        plan.topics
            .iter()
            .try_for_each(|topic| http.delete_topic(topic))?;
    }
    Ok(Report::new(plan.name, runs))
}

/// What a load thread brings home.
struct Share {
    cpu: Duration,
    time: Duration,
    published: Vec<Published>,
    lateness: Option<Histogram<u64>>,
    consumed: Vec<Consumed>,
    books: Vec<(usize, Books)>,
}

fn play(plan: &Plan) -> Result<(Run, Option<Histogram<u64>>)> {
    set_up(plan)?;
    let expected = expected(plan)?;
    let producers = match &plan.publish {
        Some(publish) => connect(plan, publish.connections, Wishes::default())?,
        None => Vec::new(),
    };
    let consumers = match &plan.consume {
        Some(consume) => subscribe(plan, consume)?,
        None => Vec::new(),
    };
    let mut links = producers
        .iter()
        .chain(consumers.iter().map(|(link, _)| link));
    let settled = links.next().and_then(|link| link.settled().cloned());
    let shared = Arc::new(Shared::new(expected.unwrap_or(u64::MAX)));
    let works = Works {
        publishing: publishers(plan, producers, &shared)?,
        consuming: consumers_of(plan, consumers, &shared),
    };
    let before = plan.target.pid.map(process::usage).transpose()?;
    let (shares, published) = run_threads(plan, &shared, works)?;
    if let (Some(http), true) = (plan.target.http.map(Http::new), plan.must_settle) {
        owed(plan, http)?;
    }
    let after = plan.target.pid.map(process::usage).transpose()?;

    let (mut run, histogram) = sum_up(plan, &shared, shares);
    run.layers = settled;
    let messages = run
        .published
        .or(run.consumed)
        .map_or(0, |flow| flow.messages);
    run.broker = before
        .zip(after)
        .map(|(b, a)| BrokerUse::between(b, a, messages));
    if let (Some(broker), Some(published)) = (&mut run.broker, published) {
        broker.note_published(published, messages);
    }
    if !plan.target.spin {
        run.judge_generator();
    }
    check_drained(plan, expected, &mut run)?;
    Ok((run, histogram))
}

fn set_up(plan: &Plan) -> Result<()> {
    let Some(http) = plan.target.http.map(Http::new) else {
        // Without the HTTP door, subscribing creates what publishing alone would not.
        for (topic, channel) in plan.subscriptions().filter(|_| plan.consume.is_none()) {
            subscribe_one(plan, (topic, channel), Wishes::default())?;
        }
        return Ok(());
    };
    for topic in &plan.topics {
        http.create_topic(topic)?;
        if !plan.target.keep {
            http.empty_topic(topic)?;
        }
        for channel in &plan.channels {
            http.create_channel(topic, channel)?;
            if !plan.target.keep {
                http.empty_channel(topic, channel)?;
            }
        }
    }
    Ok(())
}

/// Messages after which consumers may go, if that can be known before anything is published.
fn expected(plan: &Plan) -> Result<Option<u64>> {
    let (Some(consume), None) = (&plan.consume, &plan.publish) else {
        return Ok(None);
    };
    match (consume.messages, plan.target.http.map(Http::new)) {
        (Some(messages), _) => Ok(Some(messages)),
        (None, Some(http)) => owed(plan, http).map(Some),
        (None, None) => Ok(None),
    }
}

/// What the channels owe, asked until the topics have nothing left to hand to them and two answers agree.
fn owed(plan: &Plan, http: Http) -> Result<u64> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    let mut previous = None;
    loop {
        let (mut waiting, mut owed) = (0, 0);
        for (topic, channel) in plan.subscriptions() {
            let (in_topic, in_channel) = http.owed(topic, &plan.channels[channel])?;
            waiting += in_topic;
            owed += in_channel;
        }
        if waiting == 0 && previous == Some(owed) {
            return Ok(owed);
        }
        ensure!(
            Instant::now() < deadline,
            "the topics do not hand out their messages"
        );
        previous = Some(owed);
        thread::sleep(SETTLE_INTERVAL);
    }
}

fn connect(plan: &Plan, count: usize, wishes: Wishes) -> Result<Vec<Link>> {
    (0..count)
        .map(|_| Link::connect(&plan.door, wishes))
        .collect()
}

fn subscribe(plan: &Plan, consume: &Consume) -> Result<Vec<(Link, usize)>> {
    let pairs: Vec<(&String, usize)> = plan.subscriptions().collect();
    let one = |index: usize| {
        let pair = pairs[index % pairs.len()];
        Ok((subscribe_one(plan, pair, consume.wishes)?, pair.1))
    };
    (0..consume.consumers).map(one).collect()
}

fn subscribe_one(plan: &Plan, (topic, channel): (&String, usize), wishes: Wishes) -> Result<Link> {
    let mut link = Link::connect(&plan.door, wishes)?;
    let mut command = Vec::new();
    wire::put_subscribe(&mut command, topic, &plan.channels[channel]);
    link.send_all(&command)?;
    link.expect_ok()
        .with_context(|| format!("SUB {topic} {}", plan.channels[channel]))?;
    Ok(link)
}

/// What the threads bring home, and the broker's use when the last publish had been acknowledged.
fn run_threads(
    plan: &Plan,
    shared: &Arc<Shared>,
    works: Works,
) -> Result<(Vec<Share>, Option<Usage>)> {
    let mut cores = plan.target.pin.iter().copied().cycle();
    shared.begin();
    thread::scope(|scope| {
        let progress = Progress::start(scope, Arc::clone(shared));
        let mut spawn = |work: Work| {
            let core = cores.next();
            scope.spawn(move || measured(core, work).inspect_err(|_| shared.stop()))
        };
        let consuming: Vec<_> = works.consuming.into_iter().map(&mut spawn).collect();
        let publishing: Vec<_> = works.publishing.into_iter().map(&mut spawn).collect();
        let mut shares = join(publishing);
        let mut published = None;
        if plan.publish.is_some() {
            published = plan.target.pid.and_then(|pid| process::usage(pid).ok());
            shared
                .expected
                .set(shared.published.get() * wide(plan.channels.len()));
        }
        shares.extend(join(consuming));
        progress.stop();
        let shares = shares.into_iter().collect::<Result<Vec<Share>>>()?;
        Ok((shares, published))
    })
}

/// What a load thread does.
type Work = Box<dyn FnOnce() -> Result<Share> + Send>;

/// The work of all load threads, prepared before the clock runs.
struct Works {
    publishing: Vec<Work>,
    consuming: Vec<Work>,
}

fn publishers(plan: &Plan, links: Vec<Link>, shared: &Arc<Shared>) -> Result<Vec<Work>> {
    let Some(publish) = &plan.publish else {
        return Ok(Vec::new());
    };
    let spin = plan.target.spin;
    let (messages, time) = match publish.pace {
        Pace::Schedule(schedule) => {
            let schedule = Schedule { spin, ..schedule };
            let pacer = Pacer::new(links, &publish.recipe, schedule, Arc::clone(shared))?;
            return Ok(vec![Box::new(move || pace_with(pacer))]);
        }
        Pace::Messages(messages) => (Some(messages), None),
        Pace::Time(time) => (None, Some(time)),
    };
    let shares = messages.map(|messages| publish.shares(messages));
    let producer = |(index, link): (usize, Link)| {
        let stream = u32::try_from(index).expect("few connections");
        let mut producer = Producer::new(link, &publish.recipe, stream, Arc::clone(shared))?;
        let commands = shares.as_ref().map_or(u64::MAX, |shares| shares[index]);
        producer.set_budget(Budget { commands, time });
        Ok(producer)
    };
    let producers = links.into_iter().enumerate().map(producer);
    let producers = producers.collect::<Result<Vec<Producer>>>()?;
    let groups = deal(producers, threads(plan)).into_iter();
    let waiting = Waiting { tick: TICK, spin };
    Ok(groups
        .map(|group| Box::new(move || publish_with(group, waiting)) as Work)
        .collect())
}

fn consumers_of(plan: &Plan, links: Vec<(Link, usize)>, shared: &Arc<Shared>) -> Vec<Work> {
    let Some(consume) = &plan.consume else {
        return Vec::new();
    };
    let tick = if consume.policy.delay.is_zero() {
        TICK
    } else {
        TICK_OF_HELD_ANSWERS
    };
    let waiting = Waiting {
        tick,
        spin: plan.target.spin,
    };
    let verify = plan.target.verify;
    let work = |group| {
        let (consume, shared) = (consume.clone(), Arc::clone(shared));
        Box::new(move || consume_with(group, &Shelves::new(&consume, verify), waiting, &shared))
            as Work
    };
    deal(links, threads(plan)).into_iter().map(work).collect()
}

fn publish_with(mut producers: Vec<Producer>, waiting: Waiting) -> Result<Share> {
    drive::drive(&mut producers, waiting)?;
    let published = producers.iter().map(Producer::published).collect();
    Ok(Share {
        published,
        ..Share::empty()
    })
}

fn pace_with(mut pacer: Pacer) -> Result<Share> {
    pacer.run()?;
    let lateness = Some(pacer.lateness().clone());
    Ok(Share {
        published: pacer.published(),
        lateness,
        ..Share::empty()
    })
}

/// The books of a thread, one for each channel that it consumes.
struct Shelves {
    policy: Policy,
    verify: bool,
    latency: bool,
    books: RefCell<Vec<(usize, Rc<RefCell<Books>>)>>,
}

impl Shelves {
    fn new(consume: &Consume, verify: bool) -> Self {
        let policy = consume.policy.clone();
        Self {
            policy,
            verify,
            latency: consume.latency,
            books: RefCell::default(),
        }
    }

    fn of(&self, channel: usize) -> Rc<RefCell<Books>> {
        let mut books = self.books.borrow_mut();
        if let Some((_, known)) = books.iter().find(|(other, _)| *other == channel) {
            return Rc::clone(known);
        }
        let ledger = self.verify.then(Ledger::default);
        let latency = self.latency.then(latency_histogram);
        let new = Rc::new(RefCell::new(Books { ledger, latency }));
        books.push((channel, Rc::clone(&new)));
        new
    }
}

fn consume_with(
    links: Vec<(Link, usize)>,
    shelves: &Shelves,
    waiting: Waiting,
    shared: &Arc<Shared>,
) -> Result<Share> {
    let consumer = |(link, channel)| {
        Consumer::new(
            link,
            &shelves.policy,
            shelves.of(channel),
            Arc::clone(shared),
        )
    };
    let mut consumers: Vec<Consumer> = links.into_iter().map(consumer).collect();
    drive::drive(&mut consumers, waiting)?;
    consumers.iter_mut().try_for_each(Consumer::close)?;
    let consumed = consumers.iter().map(Consumer::consumed).collect();
    let books = shelves.books.take().into_iter();
    let books = books
        .map(|(channel, shelf)| (channel, shelf.take()))
        .collect();
    Ok(Share {
        consumed,
        books,
        ..Share::empty()
    })
}

fn measured(core: Option<usize>, work: Work) -> Result<Share> {
    core.map_or(Ok(()), process::pin)?;
    let (begin, cpu) = (Instant::now(), process::thread_cpu());
    let mut share = work()?;
    share.time = begin.elapsed();
    share.cpu = process::thread_cpu() - cpu;
    Ok(share)
}

fn join(threads: Vec<ScopedJoinHandle<'_, Result<Share>>>) -> Vec<Result<Share>> {
    let threads = threads.into_iter();
    threads
        .map(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a load thread panicked")))
        })
        .collect()
}

fn sum_up(plan: &Plan, shared: &Shared, shares: Vec<Share>) -> (Run, Option<Histogram<u64>>) {
    let mut run = Run {
        generator: generator_use(&shares),
        ..Run::default()
    };
    let published: Vec<Published> = shares
        .iter()
        .flat_map(|share| share.published.clone())
        .collect();
    let consumed: Vec<Consumed> = shares
        .iter()
        .flat_map(|share| share.consumed.clone())
        .collect();
    let since = |last: Option<Instant>| last.map_or(Duration::ZERO, |at| at - shared.epoch());
    if plan.publish.is_some() {
        let messages = published.iter().map(|part| part.messages).sum();
        let bytes = published.iter().map(|part| part.body_bytes).sum();
        let last = published.iter().filter_map(|part| part.last).max();
        run.published = Some(Flow::new(messages, bytes, since(last)));
    }
    if plan.consume.is_some() {
        let messages = consumed.iter().map(|part| part.messages).sum();
        let bytes = consumed.iter().map(|part| part.body_bytes).sum();
        let last = consumed.iter().filter_map(|part| Some(part.span?.1)).max();
        run.consumed = Some(Flow::new(messages, bytes, since(last)));
        run.requeued = consumed.iter().map(|part| part.requeued).sum();
        run.redelivered = consumed.iter().map(|part| part.redelivered).sum();
        run.answers_refused = consumed.iter().map(|part| part.failed).sum();
        run.early = consumed.iter().map(|part| part.early).sum();
        run.missing = missing(&run, shared);
    }
    run.lateness_us = shares
        .iter()
        .find_map(|share| share.lateness.as_ref())
        .map(Percentiles::of);
    let (books, histogram) = merge_books(plan.channels.len(), shares);
    run.latency_us = histogram.as_ref().map(Percentiles::of);
    if plan.target.verify && plan.consume.is_some() {
        let reordered = consumed.iter().map(|part| part.reordered).sum();
        run.verdict = Some(verdict(
            &books,
            plan.publish.is_some().then_some(&published),
            reordered,
        ));
    }
    (run, histogram)
}

fn generator_use(shares: &[Share]) -> GeneratorUse {
    let busy = |share: &Share| share.cpu.as_secs_f64() / share.time.as_secs_f64().max(1e-9);
    GeneratorUse {
        cpu_s: shares.iter().map(|share| share.cpu.as_secs_f64()).sum(),
        busiest: shares.iter().map(busy).fold(0.0, f64::max),
    }
}

/// Against what was published or owed; consumers that were to go when idle owe nothing.
fn missing(run: &Run, shared: &Shared) -> u64 {
    let expected = shared.expected.get();
    let consumed = run.consumed.map_or(0, |flow| flow.messages);
    if expected == u64::MAX {
        0
    } else {
        expected.saturating_sub(consumed)
    }
}

fn merge_books(channels: usize, shares: Vec<Share>) -> (Vec<Ledger>, Option<Histogram<u64>>) {
    let mut ledgers: Vec<Ledger> = (0..channels).map(|_| Ledger::default()).collect();
    let mut all: Option<Histogram<u64>> = None;
    for (channel, books) in shares.into_iter().flat_map(|share| share.books) {
        if let Some(ledger) = &books.ledger {
            ledgers[channel].merge(ledger);
        }
        match (&mut all, books.latency) {
            (Some(all), Some(part)) => all.add(part).expect("both resize themselves"),
            (all @ None, part) => *all = part,
            (Some(_), None) => {}
        }
    }
    (ledgers, all)
}

fn verdict(ledgers: &[Ledger], published: Option<&Vec<Published>>, reordered: u64) -> Verdict {
    let counts = published.map(|parts| {
        let mut parts = parts.clone();
        parts.sort_by_key(|part| part.stream);
        parts.iter().map(|part| part.messages).collect::<Vec<u64>>()
    });
    let mut sum = Verdict {
        reordered,
        ..Verdict::default()
    };
    ledgers
        .iter()
        .for_each(|ledger| sum.add(ledger.verdict(counts.as_deref())));
    sum
}

fn check_drained(plan: &Plan, expected: Option<u64>, run: &mut Run) -> Result<()> {
    let Some(http) = plan.target.http.map(Http::new).filter(|_| plan.must_drain) else {
        return Ok(());
    };
    ensure!(expected != Some(0), "the channels owe nothing");
    let owed = owed(plan, http)?;
    run.owed = Some(owed);
    run.missing = run.missing.max(owed);
    Ok(())
}

fn write_log(path: &Path, histograms: &[Histogram<u64>]) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder
        .add_comment("latency in nanoseconds, from the intended time of sending; one line per run");
    let mut log = builder.begin_log_with(&mut file, &mut serializer)?;
    for (index, histogram) in histograms.iter().enumerate() {
        let begin = Duration::from_secs(u64::try_from(index)?);
        log.write_histogram(histogram, begin, Duration::from_secs(1), Tag::new("run"))
            .map_err(|error| anyhow!("{error:?}"))?;
    }
    std::io::Write::flush(&mut file)?;
    Ok(())
}

/// Deals items into at most so many hands.
fn deal<T>(items: Vec<T>, hands: usize) -> Vec<Vec<T>> {
    let count = hands.min(items.len());
    let mut groups: Vec<Vec<T>> = (0..count).map(|_| Vec::new()).collect();
    for (index, item) in items.into_iter().enumerate() {
        groups[index % count].push(item);
    }
    groups
}

/// Load threads of each kind; half the cores are the broker's unless told otherwise.
fn threads(plan: &Plan) -> usize {
    let half = || thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    plan.target.threads.unwrap_or_else(half)
}

impl Share {
    fn empty() -> Self {
        Self {
            cpu: Duration::ZERO,
            time: Duration::ZERO,
            published: Vec::new(),
            lateness: None,
            consumed: Vec::new(),
            books: Vec::new(),
        }
    }
}

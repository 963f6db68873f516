package main

import (
	"fmt"
	"log"
	"os"
	"sync"
	"time"

	nsq "github.com/nsqio/go-nsq"
)

const patience = 30 * time.Second

// tally is what one channel saw; it must be the same with every broker and client.
type tally struct {
	Deliveries int            `json:"deliveries"`
	Distinct   int            `json:"distinct"`
	Attempts   map[string]int `json:"attempts"`
	Early      int            `json:"early"`
}

// recorder counts deliveries and tells when the expected number has been reached.
type recorder struct {
	mutex sync.Mutex
	tally tally
	seen  map[string]bool
	due   map[string]time.Time
	want  int
	done  chan struct{}
}

func newRecorder(want int) *recorder {
	return &recorder{
		tally: tally{Attempts: map[string]int{}},
		seen:  map[string]bool{}, due: map[string]time.Time{},
		want: want, done: make(chan struct{}),
	}
}

// notBefore says that the next delivery of the body must not come earlier.
func (r *recorder) notBefore(body string, due time.Time) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.due[body] = due
}

func (r *recorder) record(m *nsq.Message) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	body := string(m.Body)
	r.tally.Deliveries++
	r.tally.Attempts[fmt.Sprint(m.Attempts)]++
	r.seen[body] = true
	r.tally.Distinct = len(r.seen)
	// Deadlines are whole milliseconds; two clocks are compared.
	if due, ok := r.due[body]; ok && time.Now().Before(due.Add(-5*time.Millisecond)) {
		r.tally.Early++
	}
	if r.tally.Deliveries == r.want {
		close(r.done)
	}
}

// wait waits for the expected number, and a moment longer for what should not come.
func (r *recorder) wait(what string) (tally, error) {
	select {
	case <-r.done:
	case <-time.After(patience):
		return r.tally, fmt.Errorf("%s: %d of %d deliveries", what, r.tally.Deliveries, r.want)
	}
	time.Sleep(200 * time.Millisecond)
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.tally, nil
}

func config() (*nsq.Config, error) {
	c := nsq.NewConfig()
	c.MaxAttempts = 0
	c.MaxBackoffDuration = 0 // backoff off
	c.MsgTimeout = time.Second
	return c, negotiated.configure(c)
}

type scenario struct {
	address, prefix string
	producer        *nsq.Producer
	consumers       []*nsq.Consumer
}

func (s *scenario) consume(topic, channel string, inFlight int, handler nsq.HandlerFunc) error {
	c, err := config()
	if err != nil {
		return err
	}
	c.MaxInFlight = inFlight
	consumer, err := nsq.NewConsumer(s.prefix+topic, channel, c)
	if err != nil {
		return err
	}
	consumer.SetLogger(log.New(os.Stderr, "", 0), nsq.LogLevelWarning)
	consumer.AddConcurrentHandlers(handler, inFlight)
	s.consumers = append(s.consumers, consumer)
	return consumer.ConnectToNSQD(s.address)
}

func runScenario(address, prefix string) (interface{}, error) {
	c, err := config()
	if err != nil {
		return nil, err
	}
	producer, err := nsq.NewProducer(address, c)
	if err != nil {
		return nil, err
	}
	producer.SetLogger(log.New(os.Stderr, "", 0), nsq.LogLevelWarning)
	s := &scenario{address: address, prefix: prefix, producer: producer}
	result := map[string]interface{}{}
	for _, part := range []struct {
		name string
		run  func() (interface{}, error)
	}{
		{"fanout", s.fanout}, {"requeue", s.requeue}, {"touch", s.touch},
		{"timeout", s.timeout}, {"in_flight", s.inFlight},
	} {
		value, err := part.run()
		if err != nil {
			return nil, err
		}
		result[part.name] = value
	}
	for _, consumer := range s.consumers {
		consumer.Stop()
	}
	for _, consumer := range s.consumers {
		select {
		case <-consumer.StopChan:
		case <-time.After(patience):
			return nil, fmt.Errorf("a consumer did not stop")
		}
	}
	producer.Stop()
	return result, nil
}

// fanout: two channels with three and two consumers; PUB, MPUB and DPUB; every channel gets everything once.
func (s *scenario) fanout() (interface{}, error) {
	channels := map[string]*recorder{"a": newRecorder(520), "b": newRecorder(520)}
	for channel, consumers := range map[string]int{"a": 3, "b": 2} {
		r := channels[channel]
		for i := 0; i < consumers; i++ {
			err := s.consume("fanout", channel, 20, func(m *nsq.Message) error { r.record(m); return nil })
			if err != nil {
				return nil, err
			}
		}
	}
	topic := s.prefix + "fanout"
	for i := 0; i < 20; i++ {
		body := fmt.Sprintf("deferred %d", i)
		for _, r := range channels {
			r.notBefore(body, time.Now().Add(700*time.Millisecond))
		}
		if err := s.producer.DeferredPublish(topic, 700*time.Millisecond, []byte(body)); err != nil {
			return nil, err
		}
	}
	for i := 0; i < 200; i++ {
		if err := s.producer.Publish(topic, []byte(fmt.Sprintf("single %d", i))); err != nil {
			return nil, err
		}
	}
	for i := 0; i < 6; i++ {
		var bodies [][]byte
		for j := 0; j < 50; j++ {
			bodies = append(bodies, []byte(fmt.Sprintf("multi %d %d", i, j)))
		}
		if err := s.producer.MultiPublish(topic, bodies); err != nil {
			return nil, err
		}
	}
	result := map[string]tally{}
	for channel, r := range channels {
		t, err := r.wait("fanout " + channel)
		if err != nil {
			return nil, err
		}
		result[channel] = t
	}
	return result, nil
}

// requeue: every message is sent back once with a delay.
func (s *scenario) requeue() (interface{}, error) {
	r := newRecorder(100)
	err := s.consume("requeue", "ch", 10, func(m *nsq.Message) error {
		r.record(m)
		if m.Attempts == 1 {
			r.notBefore(string(m.Body), time.Now().Add(300*time.Millisecond))
			m.RequeueWithoutBackoff(300 * time.Millisecond)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := 0; i < 50; i++ {
		if err := s.producer.Publish(s.prefix+"requeue", []byte(fmt.Sprint(i))); err != nil {
			return nil, err
		}
	}
	return r.wait("requeue")
}

// touch: a message with a timeout of 1 s is held for 2.4 s by touching it, and comes once.
func (s *scenario) touch() (interface{}, error) {
	r := newRecorder(1)
	err := s.consume("touch", "ch", 1, func(m *nsq.Message) error {
		for i := 0; i < 6; i++ {
			time.Sleep(400 * time.Millisecond)
			m.Touch()
		}
		r.record(m)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := s.producer.Publish(s.prefix+"touch", []byte("x")); err != nil {
		return nil, err
	}
	return r.wait("touch")
}

// timeout: the first delivery is not answered; the second comes after the timeout.
func (s *scenario) timeout() (interface{}, error) {
	r := newRecorder(2)
	var first *nsq.Message
	err := s.consume("timeout", "ch", 1, func(m *nsq.Message) error {
		r.record(m)
		if m.Attempts == 2 {
			first.Finish() // so that the client library does not wait for it; one of the two FINs is refused
			return nil
		}
		first = m
		// Sent a moment ago by the broker, which counts from then.
		r.notBefore(string(m.Body), time.Now().Add(950*time.Millisecond))
		m.DisableAutoResponse()
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := s.producer.Publish(s.prefix+"timeout", []byte("x")); err != nil {
		return nil, err
	}
	return r.wait("timeout")
}

// inFlight: never more messages at once than max_in_flight allows, and that many are reached.
func (s *scenario) inFlight() (interface{}, error) {
	var mutex sync.Mutex
	current, peak := 0, 0
	full := make(chan struct{})
	r := newRecorder(20)
	for i := 0; i < 20; i++ {
		if err := s.producer.Publish(s.prefix+"inflight", []byte(fmt.Sprint(i))); err != nil {
			return nil, err
		}
	}
	c, err := config()
	if err != nil {
		return nil, err
	}
	c.MaxInFlight = 5
	c.MsgTimeout = 20 * time.Second
	consumer, err := nsq.NewConsumer(s.prefix+"inflight", "ch", c)
	if err != nil {
		return nil, err
	}
	consumer.SetLogger(log.New(os.Stderr, "", 0), nsq.LogLevelWarning)
	consumer.AddConcurrentHandlers(nsq.HandlerFunc(func(m *nsq.Message) error {
		mutex.Lock()
		current++
		if current > peak {
			peak = current
		}
		if current == 5 && peak == 5 {
			select {
			case <-full:
			default:
				close(full)
			}
		}
		mutex.Unlock()
		select {
		case <-full:
		case <-time.After(patience / 3):
		}
		r.record(m)
		mutex.Lock()
		current--
		mutex.Unlock()
		return nil
	}), 10) // more handlers than allowed in flight
	s.consumers = append(s.consumers, consumer)
	if err := consumer.ConnectToNSQD(s.address); err != nil {
		return nil, err
	}
	t, err := r.wait("in_flight")
	return map[string]interface{}{"tally": t, "peak": peak}, err
}

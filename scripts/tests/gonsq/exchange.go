package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log"
	"os"
	"sync"
	"time"

	nsq "github.com/nsqio/go-nsq"
)

type exchangeResult struct {
	Messages int `json:"messages"`
	Repeated int `json:"repeated"`
	Wrong    int `json:"wrong"`
}

// numbered is the body of message i: its number, and bytes that follow from it, some of which compress.
func numbered(i int) []byte {
	body := make([]byte, 4, 4+i%300)
	binary.BigEndian.PutUint32(body, uint32(i))
	state := uint32(i)*2654435761 + 1
	for len(body) < cap(body) {
		if i%2 == 0 {
			state = state*1664525 + 1013904223
		}
		body = append(body, byte(state>>24))
	}
	return body
}

// runExchange publishes count numbered messages through go-nsq and consumes them, comparing every body.
func runExchange(address, topic string, count int) (interface{}, error) {
	c, err := config()
	if err != nil {
		return nil, err
	}
	c.MsgTimeout = time.Minute
	c.MaxInFlight = 500
	producer, err := nsq.NewProducer(address, c)
	if err != nil {
		return nil, err
	}
	producer.SetLogger(log.New(os.Stderr, "", 0), nsq.LogLevelWarning)
	defer producer.Stop()
	consumer, err := nsq.NewConsumer(topic, "ch", c)
	if err != nil {
		return nil, err
	}
	consumer.SetLogger(log.New(os.Stderr, "", 0), nsq.LogLevelWarning)
	var mutex sync.Mutex
	var result exchangeResult
	seen := make([]bool, count)
	done := make(chan struct{})
	consumer.AddConcurrentHandlers(nsq.HandlerFunc(func(m *nsq.Message) error {
		mutex.Lock()
		defer mutex.Unlock()
		number := count
		if len(m.Body) >= 4 {
			number = int(binary.BigEndian.Uint32(m.Body))
		}
		switch {
		case number >= count || !bytes.Equal(m.Body, numbered(number)):
			result.Wrong++
		case seen[number]:
			result.Repeated++
		default:
			seen[number] = true
			result.Messages++
			if result.Messages == count {
				close(done)
			}
		}
		return nil
	}), 4)
	if err := consumer.ConnectToNSQD(address); err != nil {
		return nil, err
	}
	for i := 0; i < count; {
		var bodies [][]byte
		for ; i < count && len(bodies) < 500; i++ {
			bodies = append(bodies, numbered(i))
		}
		if err := producer.MultiPublish(topic, bodies); err != nil {
			return nil, err
		}
	}
	select {
	case <-done:
	case <-time.After(patience):
		return nil, fmt.Errorf("%d of %d messages", result.Messages, count)
	}
	consumer.Stop()
	select {
	case <-consumer.StopChan:
	case <-time.After(patience):
		return nil, fmt.Errorf("the consumer did not stop")
	}
	mutex.Lock()
	defer mutex.Unlock()
	return result, nil
}

package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

const (
	frameResponse = 0
	frameMessage  = 2
	messageHeader = 8 + 2 + 16 // timestamp, attempts, id
	loadPatience  = 120 * time.Second
)

type loadShape struct{ count, size, batch, window int }

type loadResult struct {
	PublishSeconds float64 `json:"publish_s"`
	TotalSeconds   float64 `json:"total_s"`
	ClientCPU      float64 `json:"client_cpu_s"`
	Messages       int     `json:"messages"`
	Repeated       int     `json:"repeated"`
}

// runLoad publishes with pipelined MPUBs and consumes on a second connection at the same time.
func runLoad(address, topic string, shape loadShape) (interface{}, error) {
	if shape.size < 8 || shape.batch < 1 || shape.count%shape.batch != 0 {
		return nil, fmt.Errorf("size must be at least 8, count a multiple of batch")
	}
	consumer, err := open(address)
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	producer, err := open(address)
	if err != nil {
		return nil, err
	}
	defer producer.Close()
	reader := bufio.NewReaderSize(consumer, 1<<20)
	if _, err := fmt.Fprintf(consumer, "SUB %s ch\n", topic); err != nil {
		return nil, err
	}
	if err := expectOK(reader); err != nil {
		return nil, err
	}
	began := time.Now()
	published := make(chan error, 1)
	var result loadResult
	go func() {
		published <- publish(producer, topic, shape)
	}()
	consumed := make(chan error, 1)
	go func() {
		consumed <- consume(consumer, reader, shape, &result)
	}()
	if err := <-published; err != nil {
		return nil, fmt.Errorf("publishing: %w", err)
	}
	result.PublishSeconds = time.Since(began).Seconds()
	if err := <-consumed; err != nil {
		return nil, fmt.Errorf("consuming: %w", err)
	}
	result.TotalSeconds = time.Since(began).Seconds()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return nil, err
	}
	result.ClientCPU = time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
	return result, nil
}

func open(address string) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(loadPatience)); err != nil {
		return nil, err
	}
	if _, err = c.Write([]byte("  V2")); err != nil {
		return nil, err
	}
	return negotiated.upgrade(c)
}

// frame reads a frame into buffer, which grows as needed.
func frame(r *bufio.Reader, buffer []byte) (kind uint32, data []byte, err error) {
	var header [8]byte
	if _, err = io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	size := int(binary.BigEndian.Uint32(header[:])) - 4
	if size < 0 || size > 16<<20 {
		return 0, nil, fmt.Errorf("frame of %d bytes", size)
	}
	if cap(buffer) < size {
		buffer = make([]byte, size)
	}
	data = buffer[:size]
	_, err = io.ReadFull(r, data)
	return binary.BigEndian.Uint32(header[4:]), data, err
}

func expectOK(r *bufio.Reader) error {
	kind, data, err := frame(r, nil)
	if err == nil && (kind != frameResponse || string(data) != "OK") {
		err = fmt.Errorf("expected OK, got %d %q", kind, data)
	}
	return err
}

// publish keeps up to window MPUBs under way; each body starts with its number.
func publish(c net.Conn, topic string, shape loadShape) error {
	credit := make(chan struct{}, shape.window)
	replies := make(chan error, 1)
	batches := shape.count / shape.batch
	go func() {
		reader := bufio.NewReaderSize(c, 64<<10)
		for i := 0; i < batches; i++ {
			if err := expectOK(reader); err != nil {
				replies <- err
				c.Close() // wakes the writer
				return
			}
			<-credit
		}
		replies <- nil
	}()
	command := []byte("MPUB " + topic + "\n")
	bodyBytes := 4 + shape.batch*(4+shape.size)
	command = appendUint32(command, uint32(bodyBytes))
	command = appendUint32(command, uint32(shape.batch))
	first := len(command) + 4
	for i := 0; i < shape.batch; i++ {
		command = appendUint32(command, uint32(shape.size))
		command = append(command, bytes.Repeat([]byte{'x'}, shape.size)...)
	}
	number := uint64(0)
	for i := 0; i < batches; i++ {
		for j := 0; j < shape.batch; j++ {
			binary.BigEndian.PutUint64(command[first+j*(4+shape.size):], number)
			number++
		}
		credit <- struct{}{}
		if _, err := c.Write(command); err != nil {
			select {
			case cause := <-replies:
				return cause
			default:
				return err
			}
		}
	}
	return <-replies
}

// consume finishes every message; answers are gathered while more input is at hand.
func consume(c net.Conn, reader *bufio.Reader, shape loadShape, result *loadResult) error {
	writer := bufio.NewWriterSize(c, 64<<10)
	if _, err := writer.WriteString("RDY 2500\n"); err != nil {
		return err
	}
	if err := writer.Flush(); err != nil {
		return err
	}
	seen := make([]bool, shape.count)
	answer := []byte("FIN 0123456789abcdef\n")
	buffer := make([]byte, 64<<10)
	for result.Messages < shape.count {
		kind, data, err := frame(reader, buffer)
		if err != nil {
			return fmt.Errorf("after %d messages: %w", result.Messages, err)
		}
		switch {
		case kind == frameResponse && string(data) == "_heartbeat_":
			_, err = writer.WriteString("NOP\n")
		case kind == frameMessage && len(data) == messageHeader+shape.size:
			number := binary.BigEndian.Uint64(data[messageHeader:])
			if number >= uint64(shape.count) {
				return fmt.Errorf("message number %d was never sent", number)
			}
			if seen[number] {
				result.Repeated++
			} else {
				seen[number] = true
				result.Messages++
			}
			copy(answer[4:20], data[10:26])
			_, err = writer.Write(answer)
		default:
			err = fmt.Errorf("unexpected frame %d %q", kind, data[:min(len(data), 100)])
		}
		if err == nil && reader.Buffered() < 8 {
			err = writer.Flush()
		}
		if err != nil {
			return err
		}
	}
	return writer.Flush()
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

func appendUint32(to []byte, value uint32) []byte {
	var encoded [4]byte
	binary.BigEndian.PutUint32(encoded[:], value)
	return append(to, encoded[:]...)
}

#![no_main]
ringq_fuzz::program!(nsq_proto::fuzz::BODIES);

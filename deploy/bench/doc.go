//go:build linux

// Command bench measures the same queue work on four systems in one paired run
// on this machine: NATS JetStream (3 servers, R3, sync_always), etcd (3
// members), Redis (appendfsync always, one copy) and our own replicated log (3
// voters). Every server is a process of its own, every byte travels over
// 127.0.0.1, and every acknowledgement counted is one the system calls durable.
//
// It promises that the systems take turns cell by cell, that each cell starts
// from empty folders, and that servers and folders are gone when it ends,
// however it ends. It refuses to judge: it prints medians, ranges and ratios,
// and beside them how busy the machine was with other things.
//
//	            bench (this process: all clients)
//	   enqueue | reserve + complete | wait for a job
//	           v          v                v
//	127.0.0.1  nats x3  |  etcd x3  |  redis x1  |  --ours x3
//	           (bench re-executed)    (redis-server) (wire.go is the contract)
//
// Files: main.go order of the run; measure.go phases; kill.go leader kills;
// usage.go processor time and device flushes; process.go children; report.go
// lines; nats.go, etcd.go, redis.go, ours.go one system each; wire.go what our
// side must speak.
package main

package agent

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/ahelme/comfyume/cluster/jobs"
)

// metrics reads its figures from the tables when it is asked. No label ever
// holds a user's name or a job's id.
type metrics struct {
	view *view

	info, jobs, online, people, workers, ready, check, checkAge, index, leads, disk *prometheus.Desc
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("comfyume_"+name, help, labels, nil)
}

// newMetrics registers everything this node tells about itself.
func newMetrics(reg prometheus.Registerer, v *view) error {
	m := &metrics{
		view:     v,
		info:     desc("agent_info", "Always 1; its labels say which build runs.", "version"),
		jobs:     desc("jobs_current", "Jobs in the table by state.", "state"),
		online:   desc("people_online_current", "People with an open page."),
		people:   desc("people_current", "People who may sign in."),
		workers:  desc("workers_current", "ComfyUI workers by state.", "state"),
		ready:    desc("health_ready", "1 when this node can take work."),
		check:    desc("health_check_ok", "1 when a check went well lately.", "check"),
		checkAge: desc("health_check_age_seconds", "Since a check last went well, -1 = never.", "check"),
		index:    desc("log_applied_index", "Index of the last entry applied here."),
		leads:    desc("log_leader", "1 on the node that leads."),
		disk:     desc("disk_used_ratio", "Share of the state folder's disk that is used."),
	}
	for _, c := range []prometheus.Collector{m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := reg.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// Describe lists the figures.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.info, m.jobs, m.online, m.people, m.workers, m.ready, m.check, m.checkAge, m.index, m.leads, m.disk} {
		ch <- d
	}
}

// Collect reads them.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	v := m.view.View()
	gauge(m.info, 1, v.Head.Version)
	for state, n := range map[jobs.State]int{jobs.Pending: v.Counts.Waiting, jobs.Running: v.Counts.Running, jobs.Done: v.Counts.Done, jobs.Failed: v.Counts.Failed, jobs.Cancelled: v.Counts.Cancelled} {
		gauge(m.jobs, float64(n), string(state))
	}
	gauge(m.online, float64(v.Counts.Online))
	allowed := 0
	for _, p := range v.People {
		if !p.Disabled {
			allowed++
		}
	}
	gauge(m.people, float64(allowed))
	states := map[string]int{}
	for _, w := range v.Workers {
		states[w.State]++
	}
	for state, n := range states {
		gauge(m.workers, float64(n), state)
	}
	r := m.view.health.report()
	gauge(m.ready, number(r.Ready))
	for _, c := range r.Checks {
		gauge(m.check, number(c.OK), c.Name)
		gauge(m.checkAge, c.Age, c.Name)
	}
	index, _ := m.view.machine.Applied()
	gauge(m.index, float64(index))
	gauge(m.leads, number(v.Head.Leader == v.Head.Node))
	if used := m.view.disk(); used >= 0 {
		gauge(m.disk, float64(used)/100)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// A contender on client-go's leader election, for the tests: whoever else leads the same Lease is seen from
// outside, because leading means to hold flock(2) on one file.
//
//	elector --kubeconfig FILE --namespace NS --name LEASE --identity ME --arena FILE --journal FILE
//
// The journal gets a line for each tenure: "start ME", "stop ME", and "overlap ME" when somebody else was
// leading already.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "credentials")
	namespace := flag.String("namespace", "default", "of the Lease")
	name := flag.String("name", "", "of the Lease")
	identity := flag.String("identity", "", "who this is")
	arena := flag.String("arena", "", "the file that a leader has locked")
	journal := flag.String("journal", "", "the file that is told of starts and stops")
	lease := flag.Duration("lease", 15*time.Second, "LeaseDuration")
	deadline := flag.Duration("deadline", 10*time.Second, "RenewDeadline")
	retry := flag.Duration("retry", 2*time.Second, "RetryPeriod")
	tenure := flag.Duration("tenure", 0, "resign after so long; 0 is never")
	release := flag.Bool("release", false, "ReleaseOnCancel")
	flag.Parse()

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	check(err)
	log, err := os.OpenFile(*journal, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	check(err)
	tell := func(word string) { fmt.Fprintf(log, "%s %s\n", word, *identity) }

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Name: *name, Namespace: *namespace},
			Client:     kubernetes.NewForConfigOrDie(config).CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: *identity},
		},
		LeaseDuration:   *lease,
		RenewDeadline:   *deadline,
		RetryPeriod:     *retry,
		ReleaseOnCancel: *release,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(led context.Context) { lead(led, *arena, *tenure, tell, stop) },
			OnStoppedLeading: func() {},
		},
	})
	check(err)
	elector.Run(ctx) // returns when the lead is over, and the end of the process ends the work
}

// lead is the work: it holds the file for as long as client-go says that this leads.
func lead(ctx context.Context, arena string, tenure time.Duration, tell func(string), resign func()) {
	file, err := os.OpenFile(arena, os.O_CREATE|os.O_RDWR, 0o600)
	check(err)
	defer file.Close()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		tell("overlap")
		return
	}
	tell("start")
	if tenure > 0 {
		time.AfterFunc(tenure, resign)
	}
	<-ctx.Done()
	tell("stop")
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

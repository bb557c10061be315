package agent

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// traps are what a naive ComfyUI server gets wrong, in the protocol's numbering,
// and the tests that would notice. A test is named by its folder from here.
func traps() map[int][]string {
	const here, comfy, gpu, door = "../roles/gateway:", "../roles/comfy:", "../roles/gpu:", "doortest:"
	return map[int][]string{
		1:  {here + "TestWorkflowNames"},
		2:  {comfy + "TestJobFromHistoryPassesTheSchema", here + "TestJobList"},
		3:  {here + "TestWhatPagesAsk"},
		4:  {door + "TestScriptExampleFlow"},
		5:  {here + "TestEnds"},
		6:  {here + "TestOneJob"}, // every page of a test fails without it
		7:  {here + "TestFramesStayWithTheirUser"},
		8:  {here + "TestTwoSocketsOfOnePage"},
		9:  {here + "TestCountIsTheUsersOwnAndNeverTooLow"},
		10: {comfy + "TestGraphChangesOnlyWhatWasSet", here + "TestWhatARowHolds"},
		11: {comfy + "TestClientReadsPython", comfy + "TestMessageToleratesPython"},
		12: {comfy + "TestFrameWithPromptIDCountsAnew", here + "TestPreviewsAsNegotiated", gpu + "TestResultsInFramesAreNeitherThinnedNorReordered"},
		13: {comfy + "TestMessageNamesItsPrompt"},
		14: {gpu + "TestOddMessagesDoNotStopTheRelay"},
		15: {here + "TestObjectInfo"},
		16: {here + "TestNobodyReachesAnothersThings"},
		17: {here + "TestSocketsOfStrangers", here + "TestFirstRequestAfterARestart"},
		18: {here + "TestBadPrompts"},
		19: {here + "TestWhatPagesAsk"},
		20: {here + "TestSystemAndRefusals"},
		21: {here + "TestSystemAndRefusals"},
		22: {here + "TestNumbersRise"},
		23: {here + "TestQueueVerbs", here + "TestSystemAndRefusals"},
		24: {here + "TestSystemAndRefusals", here + "TestNobodyReachesAnothersThings"},
		25: {here + "TestPromptIDs"},
		26: {here + "TestEveryWayToNameAFile", comfy + "TestGraphRewritesStringsEverywhere"},
		27: {gpu + "TestFilesGoWhereTheirNodesLook"},
		28: {gpu + "TestCachedRunTellsEverything", gpu + "TestEventsBeforeTheAnswerToThePrompt"},
		29: {gpu + "TestOddMessagesDoNotStopTheRelay"},
		30: {gpu + "TestPrefixesThatAreNotPlainText", gpu + "TestPrefixThatLeadsOutStaysInside"},
		31: {here + "TestHistoryPages"},
		32: {here + "TestUserdataListings"},
		33: {here + "TestViewRanges", here + "TestViewFinds"},
		34: {here + "TestUploadSizes", here + "TestUploadNames"},
		35: {here + "TestDoor"},
		36: {here + "TestTokensAreNotEchoed", gpu + "TestSecretsReachComfyUIAndNoRecord"},
		37: {here + "TestNodeWebFilesNeedLeave", gpu + "TestWhatPagesLoadLaterIsMirrored"},
		38: {gpu + "TestWindowsGetsItsOwnModelNames", here + "TestWorkersAreMerged"},
		39: {here + "TestWithoutAnyGPU", here + "TestNewGatewayWhileItsNeighbourIsAway"},
		40: {here + "TestWithoutAnyGPU"}, // the answer does not wait for a worker
		41: {here + "TestPathsThatClimb", here + "TestWorkflowNames"},
		42: {here + "TestPromptIDs"},
		43: {here + "TestCountIsTheUsersOwnAndNeverTooLow"},
		44: {here + "TestNumbersRise"},
		45: {here + "TestUploadNames"},
		46: {here + "TestLongListsArePacked"},
	}
}

// incidents are what people saw of the predecessor, in its numbering, and the
// tests that would notice if they saw it again.
func incidents() map[int][]string {
	const here, gpu, gateway, queue, kept, door = ".:", "../roles/gpu:", "../roles/gateway:", "../roles/queue:", "../roles/backup:", "doortest:"
	return map[int][]string{
		4:  {gpu + "TestBrokenWorkflowHoldsTheGPU30Minutes"},
		5:  {here + "TestVanishedMachineLosesItsJobInFiveSeconds", queue + "TestThreeStrikes", queue + "TestLateResultIsTaken"},
		6:  {here + "TestBusyWorkerShownOffline"},
		7:  {gpu + "TestCancelledJobLaterShowsCompletedAndTheGPUContinues"},
		8:  {gpu + "TestFiveMinuteTimeoutKillsLongVideos"},
		9:  {"../roles/gpu/comfyui:TestWorkerRestartLoopEvery30Seconds"},
		11: {here + "TestRealTimeUpdatesAreOffForGood"},
		15: {gpu + "TestOOMCrashStopsTheClass"},
		16: {here + "TestLimitSilentlyNotEnforced"},
		19: {gateway + "TestModelsThatAreNotAtTheGatewayAreRefused"},
		20: {"../roles/gpu/sensors:TestWorkerServiceFailsOnACPUHost"},
		35: {"../roles/gpu/comfyui:TestWhatIsMissingIsNamed"},
		36: {gpu + "TestWorkerOfAnotherVersionThanTheTemplates"},
		37: {gateway + "TestWhatTemplatesLack", gateway + "TestWorkshopTemplates"},
		39: {here + "TestNobodySawThatTheDiskWouldBeFull"},
		43: {"comfyume-agent:TestSyncSucceedsOntoAFullDisk", "../cluster/blob:TestDiskFillsUpWhileAFilmIsRendered", kept + "TestModelSyncSucceededWithHalfTheFiles", kept + "TestTmpWasFullAndTheSyncSaidDone"},
		44: {"../cluster/peer:TestDiskForgetsAndNobodyReads", here + "TestDamagedFileComesBackFromTheOtherMachine", kept + "TestBackupsWereAssumedToBeThere"},
		45: {kept + "TestUploadsToR2FailedInSilence", kept + "TestBucketSaysWhatIsWrong"},
		46: {door + "TestBucketKeysWereLostAfterTheRestore"},
		47: {door + "TestHourlyBackupWasNeverMade"},
		48: {"../cluster/peer:TestTableIsNewAndTheFilesAreOld", here + "TestBackupOfAnEmptyDiskDeletesEverything", kept + "TestBackupOfAWipedDisk"},
		49: {kept + "TestBackupOfAWipedDisk", kept + "TestForeignLockGetsNothing"},
		50: {door + "TestDeadMountTookTheBackupsWithIt"},
		60: {door + "TestPersonWithoutFoldersUploadsAndRenders"},
		61: {gateway + "TestDiskIsFullAndNobodyNotices", here + "TestNobodySawThatTheDiskWouldBeFull"},
		62: {door + "TestBackupsLackedWorkflows"},
		63: {door + "TestFirstStartNeedsNoBackup"},
		64: {door + "TestHostWasTerminatedWithItsConfiguration", door + "TestGatewayMachineVanishesInMidClass", door + "TestMachineAndDiskAreGoneAndTheWorkshopComesBack", here + "TestMachineOfTheLeaderIsGone"},
		65: {here + "TestNobodyKnewWhichMachineWasProduction", "comfyume-agent:TestScripts"}, // testdata/swarm.txt: the public entry
		66: {gpu + "TestSpotInstanceIsReclaimed", queue + "TestMachineThatVanishedLosesItsJobEarly"},
		75: {here + "TestSwitchingTheGPUNeedsARestart"},
		72: {here + "TestExtraEnvKeysCrashedTheStart"},
		87: {here + "TestOnDemandMachineLeftRunning"},
	}
}

// TestProofExists: what is claimed in the tables above is there.
func TestProofExists(t *testing.T) {
	have := map[string][]string{} // by folder
	look := func(what string, number int, tests []string) {
		if len(tests) == 0 {
			t.Errorf("%s %d has no test", what, number)
		}
		for _, one := range tests {
			folder, name, _ := strings.Cut(one, ":")
			if have[folder] == nil {
				have[folder] = testsIn(t, folder)
			}
			if !slices.Contains(have[folder], name) {
				t.Errorf("%s %d: %s has no %s", what, number, folder, name)
			}
		}
	}
	for number := 1; number <= 46; number++ {
		look("trap", number, traps()[number])
	}
	for number, tests := range incidents() {
		look("incident", number, tests)
	}
}

// testsIn lists the tests of a folder.
func testsIn(t *testing.T, folder string) (names []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		raw, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, raw, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				names = append(names, fn.Name.Name)
			}
		}
	}
	return names
}

"""The types of what ``lit_llm/__init__.py`` imports when it is asked for."""

from lit_llm.backbone.config import BackboneConfig as BackboneConfig
from lit_llm.backbone.config import from_depth as from_depth
from lit_llm.backbone.huggingface import load_language_model as load_language_model
from lit_llm.backbone.huggingface import load_score_model as load_score_model
from lit_llm.backbone.huggingface import save_model as save_model
from lit_llm.backbone.models import LanguageModel as LanguageModel
from lit_llm.backbone.models import ScoreModel as ScoreModel
from lit_llm.data.domain_corpora import DomainCorpora as DomainCorpora
from lit_llm.data.instructions import Instructions as Instructions
from lit_llm.data.labelled_answers import LabelledAnswers as LabelledAnswers
from lit_llm.data.preferences import Preferences as Preferences
from lit_llm.data.prompts import Prompts as Prompts
from lit_llm.data.raw_text import RawText as RawText
from lit_llm.data.task_pairs import TaskPairs as TaskPairs
from lit_llm.errors import UserError as UserError
from lit_llm.generation.sampling import generate as generate
from lit_llm.generation.sampling import respond as respond
from lit_llm.optim.adamw import adamw as adamw
from lit_llm.optim.muon import muon_adamw as muon_adamw
from lit_llm.optim.schedules import constant as constant
from lit_llm.optim.schedules import cosine as cosine
from lit_llm.optim.schedules import linear as linear
from lit_llm.optim.schedules import wsd as wsd
from lit_llm.records import Message as Message
from lit_llm.rewards.function import FunctionReward as FunctionReward
from lit_llm.rewards.learned import LearnedReward as LearnedReward
from lit_llm.rewards.verifiers import ExactAnswer as ExactAnswer
from lit_llm.rewards.verifiers import Format as Format
from lit_llm.rewards.verifiers import Length as Length
from lit_llm.rewards.verifiers import WordCount as WordCount
from lit_llm.rewards.weighted import WeightedSum as WeightedSum
from lit_llm.stages.base import Stage as Stage
from lit_llm.stages.continued_pretraining import ContinuedPretraining as ContinuedPretraining
from lit_llm.stages.fine_tuning import FineTuning as FineTuning
from lit_llm.stages.flag_classification import FlagClassification as FlagClassification
from lit_llm.stages.grpo import GRPO as GRPO
from lit_llm.stages.instruction_tuning import InstructionTuning as InstructionTuning
from lit_llm.stages.kto import KTO as KTO
from lit_llm.stages.ppo import PPO as PPO
from lit_llm.stages.preference_optimization import PreferenceOptimization as PreferenceOptimization
from lit_llm.stages.pretraining import Pretraining as Pretraining
from lit_llm.stages.reward_modeling import RewardModeling as RewardModeling
from lit_llm.text.bpe import train_bpe as train_bpe
from lit_llm.text.merges import learn_merges as learn_merges
from lit_llm.text.tokenizer import Tokenizer as Tokenizer
from lit_llm.text.tokenizer import load_tokenizer as load_tokenizer

DPO = PreferenceOptimization
__all__: list[str]
HOMES: dict[str, str]

"""The papers the parts come from, by BibTeX key. A part names its papers in `cites`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CITATIONS", "Citation", "Cited"]


@dataclass(frozen=True)
class Citation:
    """A paper on arXiv."""

    key: str
    title: str
    authors: str
    year: int
    eprint: str

    def bibtex(self) -> str:
        """Return the BibTeX entry."""
        return (
            f"@misc{{{self.key},\n"
            f"  title = {{{self.title}}},\n"
            f"  author = {{{self.authors}}},\n"
            f"  year = {{{self.year}}},\n"
            f"  eprint = {{{self.eprint}}},\n"
            f"  archivePrefix = {{arXiv}},\n"
            f"  url = {{https://arxiv.org/abs/{self.eprint}}}\n"
            "}"
        )


class Cited:
    """A part of a method, which names the papers that it is from."""

    @property
    def cites(self) -> tuple[str, ...]:
        """Their keys in `CITATIONS`."""
        return ()


_PAPERS = (
    Citation(
        "lipman2022flow",
        "Flow Matching for Generative Modeling",
        "Lipman, Yaron and Chen, Ricky T. Q. and Ben-Hamu, Heli and Nickel, Maximilian and Le, Matt",
        2022,
        "2210.02747",
    ),
    Citation(
        "liu2022flow",
        "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow",
        "Liu, Xingchao and Gong, Chengyue and Liu, Qiang",
        2022,
        "2209.03003",
    ),
    Citation(
        "albergo2022building",
        "Building Normalizing Flows with Stochastic Interpolants",
        "Albergo, Michael S. and Vanden-Eijnden, Eric",
        2022,
        "2209.15571",
    ),
    Citation(
        "song2020score",
        "Score-Based Generative Modeling through Stochastic Differential Equations",
        "Song, Yang and Sohl-Dickstein, Jascha and Kingma, Diederik P. and Kumar, Abhishek and Ermon, Stefano and "
        "Poole, Ben",
        2020,
        "2011.13456",
    ),
    Citation(
        "song2020denoising",
        "Denoising Diffusion Implicit Models",
        "Song, Jiaming and Meng, Chenlin and Ermon, Stefano",
        2020,
        "2010.02502",
    ),
    Citation(
        "karras2022elucidating",
        "Elucidating the Design Space of Diffusion-Based Generative Models",
        "Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli",
        2022,
        "2206.00364",
    ),
    Citation(
        "karras2024analyzing",
        "Analyzing and Improving the Training Dynamics of Diffusion Models",
        "Karras, Tero and Aittala, Miika and Lehtinen, Jaakko and Hellsten, Janne and Aila, Timo and Laine, Samuli",
        2023,
        "2312.02696",
    ),
    Citation(
        "salimans2022progressive",
        "Progressive Distillation for Fast Sampling of Diffusion Models",
        "Salimans, Tim and Ho, Jonathan",
        2022,
        "2202.00512",
    ),
    Citation(
        "song2023consistency",
        "Consistency Models",
        "Song, Yang and Dhariwal, Prafulla and Chen, Mark and Sutskever, Ilya",
        2023,
        "2303.01469",
    ),
    Citation(
        "song2023improved",
        "Improved Techniques for Training Consistency Models",
        "Song, Yang and Dhariwal, Prafulla",
        2023,
        "2310.14189",
    ),
    Citation(
        "lu2024simplifying",
        "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models",
        "Lu, Cheng and Song, Yang",
        2024,
        "2410.11081",
    ),
    Citation(
        "esser2024scaling",
        "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
        'Esser, Patrick and Kulal, Sumith and Blattmann, Andreas and Entezari, Rahim and M{\\"u}ller, Jonas and others',
        2024,
        "2403.03206",
    ),
    Citation(
        "frans2024one",
        "One Step Diffusion via Shortcut Models",
        "Frans, Kevin and Hafner, Danijar and Levine, Sergey and Abbeel, Pieter",
        2024,
        "2410.12557",
    ),
    Citation(
        "boffi2025build",
        "How to build a consistency model: Learning flow maps via self-distillation",
        "Boffi, Nicholas M. and Albergo, Michael S. and Vanden-Eijnden, Eric",
        2025,
        "2505.18825",
    ),
    Citation(
        "geng2025mean",
        "Mean Flows for One-step Generative Modeling",
        "Geng, Zhengyang and Deng, Mingyang and Bai, Xingjian and Kolter, J. Zico and He, Kaiming",
        2025,
        "2505.13447",
    ),
    Citation(
        "lin2025design",
        "On the Design of One-step Diffusion via Shortcutting Flow Paths",
        "Lin, Haitao and Hu, Peiyan and Ren, Minsi and Gao, Zhifeng and Ma, Zhi-Ming and Ke, Guolin and Wu, Tailin and "
        "Li, Stan Z.",
        2025,
        "2512.11831",
    ),
    Citation(
        "wang2025transition",
        "Transition Models: Rethinking the Generative Learning Objective",
        "Wang, Zidong and Zhang, Yiyuan and Yue, Xiaoyu and Yue, Xiangyu and Li, Yangguang and Ouyang, Wanli and "
        "Bai, Lei",
        2025,
        "2509.04394",
    ),
    Citation(
        "ho2022classifier",
        "Classifier-Free Diffusion Guidance",
        "Ho, Jonathan and Salimans, Tim",
        2022,
        "2207.12598",
    ),
    Citation(
        "zhou2024score",
        "Score identity Distillation: Exponentially Fast Distillation of Pretrained Diffusion Models for One-Step "
        "Generation",
        "Zhou, Mingyuan and Zheng, Huangjie and Wang, Zhendong and Yin, Mingzhang and Huang, Hai",
        2024,
        "2404.04057",
    ),
    Citation(
        "kim2023consistency",
        "Consistency Trajectory Models: Learning Probability Flow ODE Trajectory of Diffusion",
        "Kim, Dongjun and Lai, Chieh-Hsin and Liao, Wei-Hsiang and Murata, Naoki and Takida, Yuhta and "
        "Uesaka, Toshimitsu and He, Yutong and Mitsufuji, Yuki and Ermon, Stefano",
        2023,
        "2310.02279",
    ),
    Citation(
        "geng2024consistency",
        "Consistency Models Made Easy",
        "Geng, Zhengyang and Pokle, Ashwini and Luo, William and Lin, Justin and Kolter, J. Zico",
        2024,
        "2406.14548",
    ),
    Citation(
        "zhang2018unreasonable",
        "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
        "Zhang, Richard and Isola, Phillip and Efros, Alexei A. and Shechtman, Eli and Wang, Oliver",
        2018,
        "1801.03924",
    ),
    Citation(
        "zhou2023fast",
        "Fast ODE-based Sampling for Diffusion Models in Around 5 Steps",
        "Zhou, Zhenyu and Chen, Defang and Wang, Can and Chen, Chun",
        2023,
        "2312.00094",
    ),
    Citation(
        "zhou2025inductive",
        "Inductive Moment Matching",
        "Zhou, Linqi and Ermon, Stefano and Song, Jiaming",
        2025,
        "2503.07565",
    ),
    Citation(
        "lee2024truncated",
        "Truncated Consistency Models",
        "Lee, Sangyun and Xu, Yilun and Geffner, Tomas and Fanti, Giulia and Kreis, Karsten and Vahdat, Arash and "
        "Nie, Weili",
        2024,
        "2410.14895",
    ),
)

CITATIONS: dict[str, Citation] = {paper.key: paper for paper in _PAPERS}
"""Every paper by its BibTeX key."""
